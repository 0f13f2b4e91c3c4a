"""Writing one Arrow file, batch by batch."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from renaissance.contracts.source import LeftOut
from renaissance.data.mapped_arrow import ArrowArray, ArrowBatch, ArrowBuffer, ArrowSchema
from renaissance.data.prepare.image_reader import Row
from renaissance.data.prepare.manifest import TableReport

# A batch is written when it reaches this size, which bounds the memory of a preparation.
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1000
WRITE_BYTES = 256 << 10


def write_arrow_file(
    path: Path,
    table: str,
    rows: Iterable[Row | LeftOut],
    schema: ArrowSchema,
    leave_out: Callable[[LeftOut], None],
) -> TableReport:
    """Write rows as an Arrow file.

    Args:
        path: The file.
        table: Name of the table.
        rows: The rows, with an entry in place of each that cannot be used.
        schema: The pyarrow schema.
        leave_out: Called with each row that cannot be used.
    """
    with path.open("wb", buffering=0) as file:
        sink = _HashingFile(file)
        num_rows = num_texts = num_images = 0
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in _batches(rows, leave_out):
                num_rows += len(batch)
                num_texts += sum(row.record.num_texts for row in batch)
                num_images += sum(len(row.images) for row in batch)
                writer.write_batch(_record_batch(batch, schema))
        os.fsync(file.fileno())
        return TableReport(
            table, num_rows, num_texts, num_images, file.tell(), sink.sha256.hexdigest()
        )


def _batches(
    rows: Iterable[Row | LeftOut], leave_out: Callable[[LeftOut], None]
) -> Iterator[list[Row]]:
    batch: list[Row] = []
    batch_bytes = 0
    for row in rows:
        if isinstance(row, LeftOut):
            leave_out(row)
            continue
        batch.append(row)
        batch_bytes += sum(map(len, row.images.values()))
        if batch_bytes >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _record_batch(batch: Sequence[Row], schema: ArrowSchema) -> ArrowBatch:
    columns = [
        _binary_array([row.images[field.name] for row in batch])
        if field.name in batch[0].images
        # Further columns of a captions file may be absent in some of its lines.
        else pa.array([row.record.values.get(field.name) for row in batch], field.type)
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)


def _binary_array(values: Sequence[bytes]) -> ArrowArray:
    # pa.array would grow its buffer step by step, and copy it each time.
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


class _HashingFile:
    """A file for pyarrow to write to, which hashes what is written."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: ArrowBuffer) -> int:
        view = memoryview(data).cast("B")
        while view:
            # What was just hashed is still in the processor's cache when it is written.
            part, view = view[:WRITE_BYTES], view[WRITE_BYTES:]
            self.sha256.update(part)
            # An unbuffered file may take less than it is given.
            while part:
                part = part[self._file.write(part) :]
        return len(data)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def close(self) -> None:
        """Leave the file open: its opener closes it."""
