"""Rows that a caller passes, as a dataset, so that they take the same path as training data."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance.contracts.dataset import Dataset
from renaissance.contracts.samples import Sample
from renaissance.data.open_image import open_image
from renaissance.errors import DataError, quoted
from renaissance.files import with_home

# A picture: its path, its encoded bytes, an open file of them, a PIL image, or uint8 pixels,
# (height, width) or (height, width, 3 or 4).
Picture: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]"

IMAGES = ("image", "image_2")
TEXTS = ("text", "text_pair")


class Rows(Dataset):
    """Rows with the keys "image", "image_2", "text" and "text_pair"; other keys are labels.

    Args:
        rows: The rows, which must have the same keys.

    Raises:
        DataError: If their keys differ.
    """

    def __init__(self, rows: Sequence[Mapping[str, object]]) -> None:
        # A file can be read once only, but a row may be read again.
        self._rows = [
            {key: _content(value) if key in IMAGES else value for key, value in row.items()}
            for row in rows
        ]
        self.provides = frozenset(rows[0] if rows else ())
        for index, row in enumerate(rows):
            if row.keys() != self.provides:
                raise DataError(
                    f"row {index}: has {', '.join(sorted(row)) or 'nothing'}; expected "
                    f"{', '.join(sorted(self.provides))}, as in row 0. Predict rows with other "
                    "keys by another call"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one row.

        Raises:
            DataError: If a text is not a string, or a picture cannot be opened.
        """
        row, source = self._rows[index], f"row {index}"
        pictures = [open_picture(row[key], source) for key in IMAGES if key in row]
        text, text_pair = (self._text(row, key, source) for key in TEXTS)
        return Sample(
            text=text,
            text_pair=text_pair,
            images=tuple(image for image, _ in pictures),
            image_ids=tuple(identifier for _, identifier in pictures),
            labels={k: v for k, v in row.items() if k not in (*IMAGES, *TEXTS)},
            source=source,
        )

    @staticmethod
    def _text(row: Mapping[str, object], key: str, source: str) -> str | None:
        value = row.get(key)
        if key in row and not isinstance(value, str):
            raise DataError(f"{source}: {key} is {quoted(value)}; expected a string")
        return value if isinstance(value, str) else None


def _content(picture: object) -> object:
    return picture.read() if hasattr(picture, "read") else picture


def open_picture(picture: Any, source: str) -> tuple[Image.Image, Hashable]:
    """Open a picture without decoding it.

    Args:
        picture: A `Picture`.
        source: Where it comes from, for messages.

    Returns:
        The image, and an identifier that is the same for the same picture.

    Raises:
        DataError: If it is not a picture, or cannot be read.
    """
    if isinstance(picture, Image.Image):
        return picture, ("object", id(picture))
    if isinstance(picture, np.ndarray):
        return _from_pixels(picture, source), ("object", id(picture))
    data = _read(picture, source)
    return open_image(data, source), hashlib.blake2b(data, digest_size=16).digest()


def _read(picture: object, source: str) -> bytes:
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | Path):
        path = Path(with_home(str(picture)))
        try:
            return path.read_bytes()
        # A path with a NUL byte is a ValueError.
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(
                f"{source}: image {quoted(str(picture))} cannot be read ({reason}); expected the "
                "path of a picture on this machine"
            ) from error
    content = _content(picture)
    if isinstance(content, bytes):
        return content
    raise DataError(
        f"{source}: image is a {type(picture).__name__}; expected a path, bytes, a file opened for "
        "reading bytes, a PIL image, or an array of uint8"
    )


def _from_pixels(pixels: NDArray[np.uint8], source: str) -> Image.Image:
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not has_shape or pixels.size == 0:
        raise DataError(
            f"{source}: image is an array of {pixels.dtype}, shape {pixels.shape}; expected uint8, "
            "(height, width), (height, width, 3) or (height, width, 4)"
        )
    return Image.fromarray(pixels)
