"""Memory-mapped Arrow tables, and an index of the captions in them."""

import difflib
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from renaissance.errors import DataError

# pyarrow ships no types.
ArrowArray: TypeAlias = Any
ArrowBatch: TypeAlias = Any
ArrowBuffer: TypeAlias = Any
ArrowScalar: TypeAlias = Any
ArrowSchema: TypeAlias = Any
ArrowType: TypeAlias = Any

FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


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
        DataError: If a file is missing, not an Arrow file, cut short, compressed, or lacks a
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
        batch_rows, batch_files = [0], []
        for file, path in enumerate(self.paths):
            for batch in _open_batches(path, columns):
                batch_rows.append(batch.num_rows)
                batch_files.append(file)
                for name, arrays in self._columns.items():
                    has_column = name in batch.schema.names
                    arrays.append(batch.column(name) if has_column else None)
        # First row of each batch, and the end: (batches + 1,), int64.
        self._batch_starts = np.cumsum(batch_rows, dtype=np.int64)
        self._batch_files = np.array(batch_files, dtype=np.int64)
        if len(self) == 0:
            raise DataError(
                f"{', '.join(map(str, self.paths))}: no rows; expected at least one. "
                "Prepare the data again, or leave these files out"
            )

    def __len__(self) -> int:
        return int(self._batch_starts[-1])

    def __reduce__(self) -> tuple[type["ArrowTable"], tuple[object, ...]]:
        return type(self), self._arguments

    def column(self, name: str) -> list[ArrowArray]:
        """Return one pyarrow array per record batch, None for batches without that column."""
        return self._columns[name]

    def value(self, name: str, row: int) -> ArrowScalar:
        """Return one value as a pyarrow scalar, or None if the row's file lacks the column.

        Raises:
            IndexError: If the row does not exist.
        """
        batch = self._batch_of(row)
        array = self._columns[name][batch]
        return None if array is None else array[row - int(self._batch_starts[batch])]

    def source(self, row: int) -> str:
        """Return the file name and the row in that file, for messages."""
        file = self._batch_files[self._batch_of(row)]
        first_batch = np.searchsorted(self._batch_files, file)
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
        # side="right" skips empty batches.
        return int(np.searchsorted(self._batch_starts, row, side="right")) - 1


class CaptionIndex:
    """Maps a sample index to a row and a caption in it, with one sample per caption.

    Lists are looked up in the offsets that Arrow stores with them, in place, so the index needs
    memory per record batch, not per caption. A lookup takes two binary searches.

    Args:
        arrays: The caption column, one array per record batch: lists of strings, or strings.
    """

    def __init__(self, arrays: Sequence[ArrowArray]) -> None:
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


def _open_batches(path: Path, columns: Sequence[str]) -> list[ArrowBatch]:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected an Arrow file. {_names_nearby(path)}. "
            "Set data.root to the folder that holds it, or prepare it with "
            "'renaissance data prepare'"
        )
    try:
        mapping = _mapped(path)
        buffer = pa.py_buffer(mapping)
        schema, is_file = _read_schema(buffer)
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(schema.names)}; expected {', '.join(columns)}. "
                "Prepare the file with these columns, or use a dataset type that reads those it has"
            )
        # IpcReadOptions.included_fields would copy the columns instead of mapping them.
        if is_file:
            reader = pa.ipc.open_file(buffer)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            batches = list(pa.ipc.open_stream(buffer))
        for batch in batches:
            batch.validate()
    # Mapping an empty file raises ValueError.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a whole Arrow file of {path.stat().st_size} bytes ({error}); expected an "
            "uncompressed Arrow IPC file. It may be cut short: copy or prepare it again"
        ) from error
    _check_in_place(path, buffer, batches)
    # From here on rows are read, and an image spans many pages: reading ahead helps.
    mapping.madvise(mmap.MADV_NORMAL)
    return batches


def _mapped(path: Path) -> mmap.mmap:
    # Not pyarrow's memory_map: it asks the system to read ahead each batch as it is opened, and the
    # system reads ahead of each page that is touched, so opening would read whole files from disk.
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); expected a file that can be read. "
            "Allow reading it; if too many files are open, raise 'ulimit -n'"
        ) from error
    mapping.madvise(mmap.MADV_RANDOM)
    return mapping


def _read_schema(buffer: ArrowBuffer) -> tuple[ArrowSchema, bool]:
    """Return the schema, and whether the layout is IPC file (else IPC stream)."""
    if buffer[: len(FILE_MAGIC)] == FILE_MAGIC:
        return pa.ipc.open_file(buffer).schema, True
    schema = pa.ipc.open_stream(buffer).schema
    # A stream has no footer, so only its end mark shows that no batches are missing.
    if buffer[-len(END_OF_STREAM) :] != END_OF_STREAM:
        raise pa.ArrowInvalid("the stream has no end mark")
    return schema, False


def _check_in_place(path: Path, file: ArrowBuffer, batches: Sequence[ArrowBatch]) -> None:
    # Compressed buffers would be expanded into memory: the whole file, in every process.
    buffers = (b for batch in batches for column in batch.columns for b in column.buffers())
    first = next((buffer for buffer in buffers if buffer is not None and buffer.size), None)
    if first is not None and not 0 <= first.address - file.address < file.size:
        raise DataError(
            f"{path}: its record batches are compressed; expected uncompressed ones, which are "
            "read in place. Write it again with compression=None "
            "(Feather: compression='uncompressed')"
        )


def _names_nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either"
    names = sorted(p.name for p in path.parent.iterdir())
    nearest = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if nearest:
        return f"Nearest names in {path.parent}: {', '.join(nearest)}"
    arrow_files = [name for name in names if name.endswith(".arrow")][:3]
    return f"Arrow files in {path.parent}: {', '.join(arrow_files) or 'none'}"
