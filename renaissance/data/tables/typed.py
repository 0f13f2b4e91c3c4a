"""Parquet files, and Arrow files that cannot be read in place."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from renaissance.data.arrow import ArrowTable
from renaissance.data.mapped_arrow import FILE_MAGIC, ArrowBatch, ArrowSchema
from renaissance.data.prepare.parquet import parquet_batches
from renaissance.data.prepare.remote import open_file
from renaissance.data.tables.arrow_rows import write_batches
from renaissance.data.tables.cells import plain, plain_type
from renaissance.data.tables.files import TableFile
from renaissance.errors import DataError


def write_parquet(table: TableFile, path: Path) -> int:
    """Write a Parquet file as an Arrow file, and return its number of rows.

    Raises:
        DataError: If it is not a whole Parquet file.
    """
    return _write(table, path, _parquet_batches)


def write_arrow(table: TableFile, path: Path) -> int:
    """Write an Arrow file that is compressed, or at an address, as one that is read in place.

    Raises:
        DataError: If it is not a whole Arrow file.
    """
    return _write(table, path, _arrow_batches)


def is_compressed(table: TableFile) -> bool:
    """Return whether the record batches of a local Arrow file are compressed.

    Raises:
        DataError: If it is not a whole Arrow file.
    """
    with pa.memory_map(table.path) as mapped:
        whole = mapped.read_buffer()
        try:
            batches = itertools.islice(_arrow_batches(pa.BufferReader(whole)), 1, None)
            columns = (column for batch in batches for column in batch.columns)
            buffers = (buffer for column in columns for buffer in column.buffers())
            first = next((b for b in buffers if b is not None and b.size), None)
        except (pa.ArrowException, OSError, ValueError):
            # For its error, which says what is wrong with the file.
            ArrowTable([Path(table.path)], ())
            raise
        return first is not None and not 0 <= first.address - whole.address < whole.size


def _write(table: TableFile, path: Path, batches_of: Any) -> int:
    source = _reading(table, batches_of)
    # The first thing is the schema.
    schema = next(source)
    plain = pa.schema([(field.name, plain_type(field.type)) for field in schema])
    return write_batches(path, plain, (_plain(batch, plain) for batch in source))


def _reading(table: TableFile, batches_of: Any) -> Iterator[Any]:
    """Yield the schema, then the batches."""
    try:
        with open_file(table.path) as file:
            yield from batches_of(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{table.path}: not a whole {table.format.capitalize()} file ({error}). Copy it again, "
            "or write it again"
        ) from error


def _parquet_batches(file: IO[bytes]) -> Iterator[Any]:
    schema, batches = parquet_batches(file)
    yield schema
    yield from batches


def _arrow_batches(file: IO[bytes]) -> Iterator[Any]:
    is_file = file.read(len(FILE_MAGIC)) == FILE_MAGIC
    file.seek(0)
    if not is_file:
        stream = pa.ipc.open_stream(file)
        yield stream.schema
        yield from stream
        return
    reader = pa.ipc.open_file(file)
    yield reader.schema
    yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


def _plain(batch: ArrowBatch, schema: ArrowSchema) -> ArrowBatch:
    return pa.record_batch([plain(array) for array in batch.columns], schema=schema)
