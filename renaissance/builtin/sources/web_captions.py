"""Image-caption pairs from the web in lists of [path, caption], as in SBU and GCC."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from renaissance import ImageFile, LeftOut, Record
from renaissance.prepare import captioned, first_existing, json_elements

# As in the Arrow files of these datasets in common use.
ROWS_PER_FILE = 100_000
REMEDY = "Write it from the list of addresses as you download the photos"


def pair_records(
    table: str, folder: Path, split: str, annotations: Path
) -> Iterator[Record | LeftOut]:
    """Yield one row per image, with one caption.

    Args:
        table: Name of the table.
        folder: Folder that holds `images_{split}/`.
        split: The split.
        annotations: Its list of [path, caption].
    """
    for index, pair in enumerate(json_elements(annotations)):
        yield from _row(table, folder, split, f"{annotations}: [{index}]", pair)


def _row(
    table: str, folder: Path, split: str, where: str, pair: object
) -> Iterator[Record | LeftOut]:
    match pair:
        case [str(name), caption]:
            path = _image_path(folder, split, name)
            values = {"image_id": path.name, "split": split}
            yield from captioned(table, ImageFile(str(path)), [caption], values)
        case _:
            yield LeftOut(table, where, f"not a pair of path and caption: {str(pair)[:60]}")


def _image_path(folder: Path, split: str, name: str) -> Path:
    """Return the path of an image that was downloaded to `name`, perhaps on another machine."""
    parent, file = PurePosixPath(name).parts[-2:-1], PurePosixPath(name).name
    images = folder / f"images_{split}"
    return first_existing([images.joinpath(*parent, file), folder / name, images / file])
