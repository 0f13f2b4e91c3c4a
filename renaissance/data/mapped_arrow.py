"""Opening Arrow files: mapped, not read, but checked so that reading them is safe."""

import difflib
import mmap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from renaissance.data.verification import manifest_entries
from renaissance.errors import DataError, shortened

# pyarrow ships no types.
ArrowArray: TypeAlias = Any
ArrowBatch: TypeAlias = Any
ArrowBuffer: TypeAlias = Any
ArrowScalar: TypeAlias = Any
ArrowSchema: TypeAlias = Any
ArrowType: TypeAlias = Any

FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class MappedArrowFile:
    """An Arrow file, memory-mapped, whose values lie within it.

    Args:
        path: The file.
        columns: Columns that it must have.
        optional_columns: Columns that are read if it has them.

    Raises:
        DataError: If it is missing, not an Arrow file, cut short, damaged, compressed, or lacks a
            column.

    Attributes:
        batches: Its record batches.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], optional_columns: Sequence[str] = ()
    ) -> None:
        self._path = path
        self._mapping, self.batches = _open(path, columns, {*columns, *optional_columns})

    def require_whole(self) -> None:
        """Check that the file is no shorter than when it was opened.

        The system ends a process that reads a page which is no longer there.

        Raises:
            DataError: If it is.
        """
        size, expected = self._mapping.size(), len(self._mapping)
        if size < expected:
            raise DataError(
                f"{self._path}: has {size:,} bytes; it had {expected:,} when it was opened. "
                "Something has cut it short: copy or prepare it again, under another name if a "
                "run reads it"
            )


def check_sizes(paths: Sequence[Path]) -> None:
    """Compare the sizes of files with the manifests of preparation, where these list them.

    Raises:
        DataError: If one has another size.
    """
    for path, entry in manifest_entries(paths).items():
        size = path.stat().st_size if path.is_file() else entry["size"]
        if size != entry["size"]:
            raise DataError(
                f"{path}: has {size:,} bytes; {entry['manifest']} says {entry['size']:,}. Copy or "
                "prepare it again"
            )


def _open(
    path: Path, columns: Sequence[str], read: Collection[str]
) -> tuple[mmap.mmap, list[ArrowBatch]]:
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
        _check_in_place(path, buffer, batches)
    # Mapping an empty file raises ValueError; other damage, any of the others.
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise DataError(
            f"{path}: not a whole Arrow file of {path.stat().st_size} bytes "
            f"({shortened(str(error))}); expected an uncompressed Arrow IPC file. It may be cut "
            "short: copy or prepare it again"
        ) from error
    _check_columns(path, batches, read)
    # From here on rows are read, and an image spans many pages: reading ahead helps.
    mapping.madvise(mmap.MADV_NORMAL)
    return mapping, batches


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


def _check_columns(path: Path, batches: Sequence[ArrowBatch], read: Collection[str]) -> None:
    first = 0
    for batch in batches:
        for name in read:
            try:
                if name in batch.schema.names:
                    _check_offsets(batch.column(name))
            except pa.ArrowException as error:
                raise DataError(
                    f"{path}: rows {first} to {first + len(batch) - 1}: column '{name}' is damaged "
                    f"({error}). Copy or prepare the file again"
                ) from error
        first += len(batch)


def _check_offsets(array: ArrowArray) -> None:
    """Check that the offsets of an array ascend within what they point into.

    Arrow itself checks only the last one when it opens a file, and reading by a wrong one would
    read other memory, or end the process. All rows' offsets take a few bytes each.

    Raises:
        ArrowInvalid: If they do not.
    """
    kind = array.type
    is_short = pa.types.is_list(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_bytes = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    if pa.types.is_primitive(kind):
        return  # Arrow has checked the size of its buffer.
    if not (is_short or is_list or is_bytes):
        array.validate(full=True)
        return
    if len(array) == 0:
        return
    _, offset_buffer, *data = array.buffers()
    dtype: type[Any] = np.int32 if is_short else np.int64
    offsets = np.frombuffer(offset_buffer, dtype)[array.offset : array.offset + len(array) + 1]
    size = len(array.values) if is_list else (data[0].size if data[0] else 0)
    if offsets[0] < 0 or offsets[-1] > size or bool((offsets[1:] < offsets[:-1]).any()):
        raise pa.ArrowInvalid(f"offsets do not ascend from 0 to at most {size}")
    if is_list:
        _check_offsets(array.values)


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
