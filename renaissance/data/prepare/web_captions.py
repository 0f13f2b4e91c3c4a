"""Image-caption pairs from the web, as lists of (path, caption): what SBU and GCC share."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.paths import first_existing
from renaissance.data.prepare.records import (
    CAPTION_SCHEMA,
    ImageFile,
    LeftOut,
    Record,
    Source,
    captioned,
)

# As files of these datasets that already exist.
ROWS_PER_FILE = 100_000


def pairs_source(
    name: str, source: Path, annotations: Mapping[str, Path], tables: Mapping[str, str]
) -> Source:
    """List images with one caption each.

    Args:
        name: Of the dataset.
        source: Folder that holds `images_{split}/`.
        annotations: The list of [path, caption] of each split.
        tables: Name of the table of each split.
    """

    def records() -> Iterator[Record | LeftOut]:
        for split, path in annotations.items():
            for number, pair in enumerate(json_elements(path)):
                yield from _row(tables[split], source, split, f"{path}: [{number}]", pair)

    return Source(
        name=name,
        path=str(source),
        schema=CAPTION_SCHEMA,
        records=records,
        rows_per_file=ROWS_PER_FILE,
    )


def _row(table: str, source: Path, split: str, place: str, pair: Any) -> Iterator[Record | LeftOut]:
    match pair:
        case [str(name), caption]:
            path = _image_path(source, split, name)
            values = {"image_id": path.name, "split": split}
            yield from captioned(table, ImageFile(str(path)), [caption], values)
        case _:
            yield LeftOut(table, place, f"no pair of path and caption: {str(pair)[:60]}")


def _image_path(source: Path, split: str, name: str) -> Path:
    """Return the path of an image that was downloaded as `name`, perhaps on another machine."""
    folder, file = PurePosixPath(name).parts[-2:-1], PurePosixPath(name).name
    images = source / f"images_{split}"
    return first_existing([images.joinpath(*folder, file), source / name, images / file])
