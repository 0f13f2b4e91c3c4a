"""Choosing among the splits of a download."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from renaissance.contracts.source import SourceContext
from renaissance.data.order import Permutation
from renaissance.errors import DataError, did_you_mean
from renaissance.randomness import keyed_seed

Item = TypeVar("Item")


def choose_splits(context: SourceContext, known: Sequence[str]) -> tuple[str, ...]:
    """Return the splits to prepare: those asked for, or all.

    Raises:
        DataError: If a split that was asked for does not exist.
    """
    for split in context.splits:
        if split not in known:
            raise DataError(
                f"{context.path}: no split '{split}'; it has {', '.join(known)}"
                f"{did_you_mean(split, known)}"
            )
    return context.splits or tuple(known)


def files_by_split(
    context: SourceContext, files: Mapping[str, str], remedy: str
) -> dict[str, Path]:
    """Return the annotation file of each split: those asked for, or those that exist.

    Args:
        context: Folder of the download, and the splits asked for.
        files: Path of each split's file, relative to the folder.
        remedy: What to do if a file is missing.

    Raises:
        DataError: If a split that was asked for does not exist or has no file, or no file exists.
    """
    folder = Path(context.path)
    chosen = choose_splits(context, tuple(files))
    paths = {split: folder / file for split, file in files.items() if split in chosen}
    existing = {split: path for split, path in paths.items() if path.is_file()}
    for split in context.splits:
        if split not in existing:
            raise DataError(
                f"{folder / files[split]}: no such file; expected split '{split}'. {remedy}"
            )
    if not existing:
        raise DataError(
            f"{folder}: no annotations; expected one or more of {', '.join(files.values())}. "
            f"{remedy}"
        )
    return existing


def held_out(items: Sequence[Item], count: int, purpose: str) -> list[Item]:
    """Draw items to hold out from training: the same ones every time.

    Args:
        items: What to draw from.
        count: How many to draw.
        purpose: Name of the draw; a different name draws different items.
    """
    if not items:
        return []
    order = Permutation(len(items), keyed_seed(0, purpose))
    return [items[order[index]] for index in range(min(count, len(items)))]
