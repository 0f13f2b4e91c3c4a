"""Rows of images and texts in Arrow tables: what all datasets of such files share."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from renaissance import DataError, Dataset
from renaissance.data.arrow import ArrowTable, CaptionIndex, is_binary
from renaissance.data.images import open_image


class ImageRows(Dataset):
    """Rows of images, each with a list of texts.

    An image is identified by its `image_id`, or by file and row where it has none; identifiers of
    two datasets are never equal.

    Args:
        arguments: What the dataset was made of, for a loader process that makes it again.
        paths: Arrow files.
        texts: Column of the texts.
        images: Columns of encoded images.
        columns: Further columns that every file must have.
        optional_columns: Columns to read where a file has them.

    Raises:
        DataError: If a file is missing or unreadable, lacks a column, or has no text.
    """

    def __init__(
        self,
        arguments: tuple[Any, ...],
        paths: Sequence[Path],
        texts: str,
        images: Sequence[str] = ("image",),
        columns: Sequence[str] = (),
        optional_columns: Sequence[str] = (),
    ) -> None:
        self._arguments = arguments
        self._table = ArrowTable(paths, (*images, texts, *columns), optional_columns)
        for image in images:
            self._table.check_type(image, is_binary, "binary: the encoded image file")
        self._texts = CaptionIndex(self._table.column(texts))
        self._identifies = "image_id" in (*columns, *optional_columns)
        # Tells equal identifiers of different datasets apart.
        self._namespace = "; ".join(map(str, paths))
        if len(self._texts) == 0:
            raise DataError(
                f"{', '.join(map(str, paths))}: no {texts.removesuffix('s')} in "
                f"{len(self._table)} rows; expected at least one in column '{texts}'. "
                "Prepare the data again"
            )

    def __len__(self) -> int:
        return len(self._texts)

    def __reduce__(self) -> tuple[type["ImageRows"], tuple[Any, ...]]:
        # A loader process that does not inherit memory opens the files again.
        return type(self), self._arguments

    def _image(self, row: int, source: str, column: str = "image") -> Image.Image:
        """Open an image.

        Raises:
            DataError: If it is null, or no picture.
        """
        image = self._table.value(column, row)
        if not image.is_valid:
            raise DataError(
                f"{source}: {column} is null; expected the bytes of an image file. Prepare the "
                "data again, or let the run skip it with data.max_bad_samples"
            )
        return open_image(image.as_buffer(), source)

    def _image_id(self, row: int) -> Hashable:
        scalar = self._table.value("image_id", row) if self._identifies else None
        value = None if scalar is None else scalar.as_py()
        # pandas writes a missing number as NaN, the one value that is not equal to itself.
        if value is None or value != value:
            return self._namespace, "row", row
        return self._namespace, value

    def _item(self, column: str, row: int, position: int, source: str) -> Any:
        """Return what a list column holds for one text of a row.

        Raises:
            DataError: If the row holds nothing for that text.
        """
        values = self._table.value(column, row)
        number = len(values.values) if values is not None and values.is_valid else 0
        if position >= number or not values.values[position].is_valid:
            raise DataError(
                f"{source}: column '{column}' holds nothing for text {position}; expected one "
                "value a text. Prepare the data again"
            )
        return values.values[position].as_py()


def written_text(text: Any, source: str) -> str:
    """Return a text that has a word.

    Raises:
        DataError: If it has none.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{source}: the text is {text!r}; expected at least one word. Prepare the data again, "
            "or let the run skip it with data.max_bad_samples"
        )
    return text


def whole_number(value: Any, column: str, source: str, stop: int | None = None) -> int:
    """Return a number as an integer; pandas may have written it as a float.

    Args:
        value: As the file has it.
        column: Its column.
        source: File and row.
        stop: It must lie below, and not below 0; None for any.

    Raises:
        DataError: If it is no integer, or out of range.
    """
    is_whole = isinstance(value, int | float) and float(value).is_integer()
    if is_whole and (stop is None or 0 <= value < stop):
        return int(value)
    expected = "a whole number" if stop is None else f"a whole number from 0 to {stop - 1}"
    raise DataError(
        f"{source}: column '{column}' holds {value!r}; expected {expected}. "
        "Prepare the data again, or let the run skip it with data.max_bad_samples"
    )
