"""Memory-mapped Arrow tables, and an index of the captions in them."""

import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from renaissance.data.mapped_arrow import (
    ArrowArray,
    ArrowScalar,
    ArrowType,
    MappedArrowFile,
    check_sizes,
)
from renaissance.errors import DataError


class ArrowTable:
    """The rows of one or many Arrow files, memory-mapped.

    Nothing is copied: processes share the pages, and memory does not grow with the files. Both
    Arrow layouts are supported, IPC file and IPC stream. A pickled table holds only the paths and
    opens the files again in the other process.

    Args:
        paths: The files; their rows are concatenated in this order.
        columns: Columns that every file must have.
        optional_columns: Columns to read from the files that have them.

    Raises:
        DataError: If a file is missing, not an Arrow file, cut short, damaged so that reading it
            would leave its bounds, of another size than its manifest says, compressed, or lacks a
            column, or if there are no rows at all.
    """

    def __init__(
        self, paths: Sequence[Path], columns: Sequence[str], optional_columns: Sequence[str] = ()
    ) -> None:
        self.paths = tuple(paths)
        self._arguments = (self.paths, tuple(columns), tuple(optional_columns))
        self._columns: dict[str, list[ArrowArray]] = {
            name: [] for name in (*columns, *optional_columns)
        }
        # First row of each batch, and the end. For one row, a list is faster than an array.
        self._batch_starts = [0]
        self._batch_files: list[int] = []
        self._files = [MappedArrowFile(path, columns, optional_columns) for path in self.paths]
        check_sizes(self.paths)
        for file, mapped in enumerate(self._files):
            for batch in mapped.batches:
                self._batch_starts.append(self._batch_starts[-1] + batch.num_rows)
                self._batch_files.append(file)
                for name, arrays in self._columns.items():
                    has_column = name in batch.schema.names
                    arrays.append(batch.column(name) if has_column else None)
        if len(self) == 0:
            raise DataError(
                f"{', '.join(map(str, self.paths))}: no rows; expected at least one. "
                "Prepare the data again, or leave these files out"
            )

    def __len__(self) -> int:
        return self._batch_starts[-1]

    def __reduce__(self) -> tuple[type["ArrowTable"], tuple[object, ...]]:
        return type(self), self._arguments

    def column(self, name: str) -> list[ArrowArray]:
        """Return one pyarrow array per record batch, None for batches without that column."""
        return self._columns[name]

    def value(self, name: str, row: int) -> ArrowScalar:
        """Return one value as a pyarrow scalar, or None if the row's file lacks the column.

        Raises:
            DataError: If the value is damaged, or the file is shorter than when it was opened.
            IndexError: If the row does not exist.
        """
        batch = self._batch_of(row)
        array = self._columns[name][batch]
        if array is None:
            return None
        self.require_whole(batch)
        scalar = array[row - self._batch_starts[batch]]
        if not is_binary(array.type):
            try:
                scalar.validate(full=True)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{self.source(row)}: column '{name}' is damaged ({error}). Copy or prepare "
                    "the file again"
                ) from error
        return scalar

    def require_whole(self, batch: int) -> None:
        """Check that the file of a record batch is no shorter than when it was opened.

        Raises:
            DataError: If it is.
        """
        self._files[self._batch_files[batch]].require_whole()

    def source(self, row: int) -> str:
        """Return the file name and the row in that file, for messages."""
        file = self._batch_files[self._batch_of(row)]
        first_batch = self._batch_files.index(file)
        return f"{self.paths[file].name}: row {row - self._batch_starts[first_batch]}"

    def check_type(self, name: str, accepts: Callable[[ArrowType], bool], expected: str) -> None:
        """Check that a column has an accepted type in every file.

        Args:
            name: The column.
            accepts: Whether a pyarrow type is accepted, such as `is_text`.
            expected: The accepted types, in words, for the message.

        Raises:
            DataError: If it does not; the message names the file and both types.
        """
        for file, array in zip(self._batch_files, self._columns[name], strict=True):
            if array is not None and not accepts(array.type):
                raise DataError(
                    f"{self.paths[file]}: column '{name}' is {array.type}; expected {expected}. "
                    "Prepare the file again with that type"
                )

    def _batch_of(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row: got {row}, expected 0 <= row < {len(self)}")
        # From the right, which skips empty batches.
        return bisect.bisect_right(self._batch_starts, row) - 1


class CaptionIndex:
    """Maps a sample index to a row and a caption in it, with one sample per caption.

    Lists are looked up in the offsets that Arrow stores with them, in place, so the index needs
    memory per record batch, not per caption. A lookup takes two binary searches.

    Args:
        arrays: The caption column, one array per record batch: lists of strings, or strings.
        require_whole: Called with the index of a record batch before its offsets are read.
    """

    def __init__(
        self,
        arrays: Sequence[ArrowArray],
        require_whole: Callable[[int], None] = lambda batch: None,
    ) -> None:
        self._require_whole = require_whole
        # Per batch: number of captions before each row, and the end, (rows + 1,), int32 or int64;
        # None if each row has one caption. The first need not be 0: a batch may be a slice.
        self._offsets = [_caption_offsets(array) for array in arrays]
        num_captions = [
            len(array) if offsets is None else int(offsets[-1]) - int(offsets[0])
            for array, offsets in zip(arrays, self._offsets, strict=True)
        ]
        self._row_starts = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        self._caption_starts = np.cumsum([0, *num_captions], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._caption_starts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Return the row, counted over all files, and the caption's position in its list.

        Raises:
            DataError: As `require_whole` raises it.
            IndexError: If the caption does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"caption: got {index}, expected 0 <= caption < {len(self)}")
        batch = int(np.searchsorted(self._caption_starts, index, side="right")) - 1
        position = index - int(self._caption_starts[batch])
        first_row = int(self._row_starts[batch])
        offsets = self._offsets[batch]
        if offsets is None:
            return first_row + position, 0
        self._require_whole(batch)
        # With the offsets' own dtype: otherwise numpy would convert, and copy, all of them.
        caption = offsets.dtype.type(position + int(offsets[0]))
        row = int(np.searchsorted(offsets, caption, side="right")) - 1
        return first_row + row, int(caption - offsets[row])


def _caption_offsets(array: ArrowArray) -> NDArray[np.integer[Any]] | None:
    if not is_list(array.type):
        return None
    if len(array) and array.null_count == 0:
        return array.offsets.to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]
    # A null has no captions, but its offsets may still span some.
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)


def is_list(arrow_type: ArrowType) -> bool:
    """Return whether a pyarrow type is a list with stored offsets."""
    return bool(pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type))


def is_text(arrow_type: ArrowType) -> bool:
    """Return whether a pyarrow type is a string."""
    return bool(pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type))


def is_texts(arrow_type: ArrowType) -> bool:
    """Return whether a pyarrow type is a list of strings."""
    return is_list(arrow_type) and is_text(arrow_type.value_type)


def is_binary(arrow_type: ArrowType) -> bool:
    """Return whether a pyarrow type is bytes of any length."""
    return bool(pa.types.is_binary(arrow_type) or pa.types.is_large_binary(arrow_type))
