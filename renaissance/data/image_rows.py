"""The base of datasets of images with texts in Arrow tables."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from renaissance import DataError, Dataset, quoted
from renaissance.data.arrow import ArrowTable, CaptionIndex, is_binary
from renaissance.data.open_image import open_image


class ImageRows(Dataset):
    """Rows of images, each with a list of texts.

    An image is identified by its `image_id`, or by file and row if it has none. Identifiers of
    different datasets are never equal.

    Args:
        arguments: Arguments of the subclass, for loader processes that make the dataset again.
        paths: Arrow files.
        texts: Column of the texts.
        images: Columns of encoded images.
        columns: Further columns that every file must have.
        optional_columns: Columns to read from the files that have them.

    Raises:
        DataError: If a file is missing or unreadable, lacks a column, or has no text.
    """

    def __init__(
        self,
        arguments: tuple[object, ...],
        paths: Sequence[Path],
        texts: str,
        images: Sequence[str] = ("image",),
        columns: Sequence[str] = (),
        optional_columns: Sequence[str] = (),
    ) -> None:
        self._arguments = arguments
        self._table = ArrowTable(paths, (*images, texts, *columns), optional_columns)
        self.files = self._table.paths
        for image in images:
            self._table.check_type(image, is_binary, "binary: the encoded image file")
        self._texts = CaptionIndex(self._table.column(texts), self._table.require_whole)
        self._has_image_ids = "image_id" in (*columns, *optional_columns)
        # Keeps equal identifiers of different datasets apart.
        self._namespace = "; ".join(map(str, paths))
        if len(self._texts) == 0:
            raise DataError(
                f"{', '.join(map(str, paths))}: no {texts.removesuffix('s')} in "
                f"{len(self._table)} rows; expected at least one in column '{texts}'. "
                "Prepare the data again"
            )

    def __len__(self) -> int:
        return len(self._texts)

    def __reduce__(self) -> tuple[type["ImageRows"], tuple[object, ...]]:
        # A loader process that does not inherit memory opens the files again.
        return type(self), self._arguments

    def _image(self, row: int, source: str, column: str = "image") -> Image.Image:
        """Open an image.

        Raises:
            DataError: If it is null or not a picture.
        """
        image = self._table.value(column, row)
        if not image.is_valid:
            raise DataError(
                f"{source}: {column} is null; expected the bytes of an image file. Prepare the "
                "data again, or let the run skip it with data.max_bad_samples"
            )
        return open_image(image.as_buffer(), source)

    def _image_id(self, row: int) -> Hashable:
        scalar = self._table.value("image_id", row) if self._has_image_ids else None
        value = None if scalar is None else scalar.as_py()
        # pandas writes a missing number as NaN, the only value that is not equal to itself.
        if value is None or value != value:
            return self._namespace, "row", row
        return self._namespace, value

    def _item(self, column: str, row: int, position: int, source: str) -> Any:
        """Return the value of a list column for one text of a row.

        Raises:
            DataError: If the row has no value for that text.
        """
        values = self._table.value(column, row)
        num_values = len(values.values) if values is not None and values.is_valid else 0
        if position >= num_values or not values.values[position].is_valid:
            raise DataError(
                f"{source}: column '{column}' has no value for text {position}; expected one "
                "per text. Prepare the data again"
            )
        return values.values[position].as_py()


def written_text(text: object, source: str) -> str:
    """Return a text, which must have at least one word.

    Raises:
        DataError: If it is not a text or is blank.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{source}: the text is {quoted(text)}; expected at least one word. Prepare the data "
            "again, or let the run skip it with data.max_bad_samples"
        )
    return text


def whole_number(value: object, column: str, source: str, stop: int | None = None) -> int:
    """Return a number as an integer; pandas may have written it as a float.

    Args:
        value: The value in the file.
        column: Its column, for messages.
        source: File and row, for messages.
        stop: The number must be from 0 up to, but not including, this; None for any.

    Raises:
        DataError: If it is not an integer, or out of range.
    """
    if isinstance(value, int | float) and float(value).is_integer():
        number = int(value)
        if stop is None or 0 <= number < stop:
            return number
    expected = "a whole number" if stop is None else f"a whole number from 0 to {stop - 1}"
    raise DataError(
        f"{source}: column '{column}' holds {quoted(value)}; expected {expected}. "
        "Prepare the data again, or let the run skip it with data.max_bad_samples"
    )
