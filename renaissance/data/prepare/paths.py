"""Finding the files of a download."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from renaissance.errors import DataError


def find_file(source: Path, candidates: Sequence[str], remedy: str) -> Path:
    """Return the first of some files that exists.

    Args:
        source: Folder of the download, or the file itself.
        candidates: Paths relative to it.
        remedy: What to do if there is none.

    Raises:
        DataError: If there is none.
    """
    if source.is_file():
        return source
    for candidate in candidates:
        if (source / candidate).is_file():
            return source / candidate
    raise DataError(
        f"{source}: no {candidates[0]}; expected {' or '.join(candidates)} in that folder. {remedy}"
    )


def files_by_split(
    source: Path, files: Mapping[str, str], splits: Sequence[str] | None, remedy: str
) -> dict[str, Path]:
    """Return the annotation file of each split: those asked for, or those that are there.

    Args:
        source: Folder of the download.
        files: Path of each split's file, relative to it.
        splits: The splits asked for; None for those that are there.
        remedy: What to do if a file is missing.

    Raises:
        DataError: If a split is unknown or its file missing, or there is none at all.
    """
    for split in splits or ():
        if split not in files:
            raise DataError(
                f"{source}: no split '{split}'; it has {', '.join(files)}. Name one of these"
            )
        if not (source / files[split]).is_file():
            raise DataError(
                f"{source / files[split]}: no such file; expected split '{split}'. {remedy}"
            )
    found = {
        split: source / file
        for split, file in files.items()
        if (source / file).is_file() and (splits is None or split in splits)
    }
    if not found:
        raise DataError(
            f"{source}: no annotations; expected one or more of {', '.join(files.values())}. "
            f"{remedy}"
        )
    return found


def first_existing(candidates: Iterable[Path]) -> Path:
    """Return the first path that exists, or the first of all."""
    paths = list(candidates)
    return next((path for path in paths if path.exists()), paths[0])
