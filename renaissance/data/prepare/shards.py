"""Writing one Arrow file: images are read and checked by several threads, rows keep their order."""

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import numpy as np
import pyarrow as pa

from renaissance.data.prepare.image_files import decode_fault, image_fault, resized
from renaissance.data.prepare.manifest import TableReport
from renaissance.data.prepare.records import LeftOut, Record, RecordFile
from renaissance.errors import DataError

# A batch is written when it holds this much: the most that preparation keeps in memory.
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1000
WRITE_BYTES = 256 << 10
# Records that a thread reads at a time, and tasks that wait for each thread.
TASK_RECORDS = 8
TASKS_AHEAD = 2

Row = tuple[Record, dict[str, bytes]]


@attrs.frozen(kw_only=True)
class Reading:
    """How images are read.

    Attributes:
        check: Whether each is decoded fully.
        resize: Shorter side to scale down to, pixels; None leaves the bytes as they are.
        workers: How many threads read.
    """

    check: bool = False
    resize: int | None = None
    workers: int = 1

    def row(self, record: Record) -> Row | LeftOut:
        """Read the images of a record."""
        images = {}
        for column, image in record.images.items():
            try:
                data = image.read()
                fault = decode_fault(data) if self.check else image_fault(data)
                if fault is None and self.resize is not None:
                    data = resized(data, self.resize)
            except DataError as error:
                fault = str(error)
            except OSError as error:
                fault = f"cannot be read ({error.strerror or error})"
            if fault is not None:
                return LeftOut(record.table, str(image), fault)
            images[column] = data
        return record, images


def read_in_order(
    records: RecordFile, positions: Iterable[int], reading: Reading, pool: ThreadPoolExecutor
) -> Iterator[Row | LeftOut]:
    """Yield the rows at `positions`, in that order, read ahead by the pool's threads.

    Threads serve: reading, decoding and digesting let go of the interpreter, and rows need not be
    copied between processes.
    """

    def read(task: list[int]) -> list[Row | LeftOut]:
        return [reading.row(records[position]) for position in task]

    remaining = iter(positions)
    ahead: deque[Future[list[Row | LeftOut]]] = deque()
    while task := list(itertools.islice(remaining, TASK_RECORDS)):
        ahead.append(pool.submit(read, task))
        if len(ahead) > TASKS_AHEAD * reading.workers:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def write_shard(
    path: Path,
    table: str,
    rows: Iterable[Row | LeftOut],
    schema: Any,
    leave_out: Callable[[LeftOut], None],
) -> TableReport:
    """Write rows as an Arrow file.

    Args:
        path: The file.
        table: Name of the table.
        rows: The rows, and what takes the place of those that cannot be used.
        schema: The pyarrow schema.
        leave_out: Takes note of what cannot be used.
    """
    with path.open("wb", buffering=0) as file:
        sink = _HashingFile(file)
        num_rows = num_texts = num_images = 0
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in _batches(rows, leave_out):
                num_rows += len(batch)
                num_texts += sum(record.num_texts for record, _ in batch)
                num_images += sum(len(images) for _, images in batch)
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
        batch_bytes += sum(map(len, row[1].values()))
        if batch_bytes >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _record_batch(batch: list[Row], schema: Any) -> Any:
    columns = [
        _binary_array([images[field.name] for _, images in batch])
        if field.name in batch[0][1]
        else pa.array([record.values[field.name] for record, _ in batch], field.type)
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)


def _binary_array(values: list[bytes]) -> Any:
    # pyarrow's own way lets its buffer grow, which copies it again and again.
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


class _HashingFile:
    """A file for pyarrow to write to, which digests what passes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        while view:
            # What was digested is still in the processor's cache when it is written.
            part, view = view[:WRITE_BYTES], view[WRITE_BYTES:]
            self.sha256.update(part)
            # An unbuffered file may take less than it is given.
            while part:
                part = part[self._file.write(part) :]
        return len(data)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def close(self) -> None:
        """Leave the file open: whoever opened it closes it."""
