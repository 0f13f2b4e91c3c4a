"""The items of suites, and reading the files that they are in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from PIL import Image

from renaissance.data.images import decoded, to_rgb
from renaissance.data.open_image import ImageLimits, open_image
from renaissance.errors import DataError, quoted, shortened

Box = tuple[int, int, int, int]
# How many missing files a message names.
MAX_NAMED = 3


@attrs.frozen
class ItemImage:
    """An image of an item.

    Attributes:
        path: The file.
        box: The part that is used: left, upper, right and lower edge, pixels; None for all of it.
    """

    path: Path
    box: Box | None = None

    def picture(self, limits: ImageLimits) -> Path | Image.Image:
        """Return the file or, of a part, the pixels.

        Raises:
            DataError: If it cannot be decoded.
        """
        box = self.box
        if box is None:
            return self.path
        source = str(self.path)
        image = open_image(self.path.read_bytes(), source)
        return decoded(image, limits, source, lambda image: to_rgb(image).crop(box))


@attrs.frozen
class ChoiceItem:
    """Some images and some texts, of which it is known which go together.

    Attributes:
        name: File and key, for messages.
        group: The part of the suite that it belongs to.
        images: The images.
        texts: The texts.
        image_of: For each text, the index of its image; None for a text that fits no image. Every
            image has one text.
        kind: Finer than the group, such as the relation that the texts are about; may be empty.
    """

    name: str
    group: str
    images: tuple[ItemImage, ...]
    texts: tuple[str, ...]
    image_of: tuple[int | None, ...]
    kind: str = ""


def caption_or_foil(
    name: str, group: str, image: ItemImage, caption: object, foil: object, kind: str = ""
) -> ChoiceItem:
    """Return an item of one image with its caption and a text that is wrong.

    Raises:
        DataError: If one of them is not a string.
    """
    texts = string(name, "caption", caption), string(name, "foil", foil)
    return ChoiceItem(name, group, (image,), texts, (0, None), kind)


def string(name: str, what: str, value: object) -> str:
    """Return a text of an item.

    Raises:
        DataError: If it is not a string.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}: {what} is {quoted(value)}; expected a text. Download it again")
    return value


def read_table(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON: {shortened(str(error))}; download it again"
        ) from error


def entries(path: Path, table: object) -> list[tuple[str, dict[str, Any]]]:
    """Return the records of a table with names, from a list or an object of objects.

    Raises:
        DataError: If it is neither.
    """
    pairs = list(table.items()) if isinstance(table, dict) else []
    if isinstance(table, list):
        pairs = [(str(index), record) for index, record in enumerate(table)]
    if not pairs or not all(isinstance(record, dict) for _, record in pairs):
        raise DataError(f"{path}: expected a list or an object of objects; download it again")
    return [(f"{path.name}: item {key}", record) for key, record in pairs]


def first_folder(root: Path, folders: Sequence[str], file: str) -> Path:
    """Return the first folder that has a file.

    Raises:
        DataError: If none has.
    """
    for folder in folders:
        if (root / folder / file).is_file():
            return root / folder
    looked = ", ".join(str(root / folder / file) for folder in folders)
    raise DataError(f"--data: the suite's file is not there; looked for {looked}")


def check_images(items: Sequence[ChoiceItem]) -> None:
    """Check that the images of all items are there, before any is scored.

    Raises:
        DataError: Naming items whose image is missing.
    """
    found: dict[Path, bool] = {}
    missing = []
    for item in items:
        for image in item.images:
            if not found.setdefault(image.path, image.path.is_file()):
                missing.append(f"{item.name}: {image.path}")
    if missing:
        examples = "; ".join(missing[:MAX_NAMED])
        raise DataError(
            f"--data: images are missing: {len(missing):,}, such as {examples}; expected all, "
            "since a score of fewer items cannot be compared with others. Copy them there"
        )
