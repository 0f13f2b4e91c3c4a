"""Reading the images of records: by several threads, in the order of the records."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import attrs

from renaissance.contracts.source import ImageFile, LeftOut, Record
from renaissance.data.open_image import COMMAND_LIMITS, ImageFaultError, ImageLimits
from renaissance.data.prepare.image_files import decode_fault, image_fault, read_image, resized
from renaissance.data.prepare.record_store import RecordStore
from renaissance.errors import DataError

# Records per task of a thread, and tasks queued ahead per thread.
TASK_RECORDS = 8
TASKS_AHEAD = 2


@attrs.frozen
class Row:
    """A record with its images.

    Attributes:
        record: The record.
        images: The bytes of its images, by column.
    """

    record: Record
    images: Mapping[str, bytes]


@attrs.frozen(kw_only=True)
class ImageReader:
    """Reads images, checks them, and scales them down.

    Attributes:
        check: Whether to decode each image fully.
        resize: Shorter side to scale down to, pixels; None leaves the bytes as they are.
        workers: Number of threads.
        limits: Larger images are left out.
    """

    check: bool = False
    resize: int | None = None
    workers: int = 1
    limits: ImageLimits = COMMAND_LIMITS

    def read(self, record: Record) -> Row | LeftOut:
        """Read the images of a record."""
        images = {}
        for column, file in record.images.items():
            image = self._image(file)
            if isinstance(image, str):
                return LeftOut(record.table, str(file), image)
            images[column] = image
        return Row(record, images)

    def _image(self, file: ImageFile) -> bytes | str:
        """Return the bytes of an image, or what is wrong with it."""
        try:
            # One byte more than allowed tells that a file is too large.
            data = read_image(file, self.limits.max_bytes + 1)
            check = decode_fault if self.check else image_fault
            fault = self.limits.bytes_fault(len(data)) or check(data, self.limits)
            if fault is not None:
                return fault
            return data if self.resize is None else resized(data, self.resize, self.limits)
        except ImageFaultError as error:
            return error.fault
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    def read_in_order(
        self, records: RecordStore, indices: Iterable[int], pool: ThreadPoolExecutor
    ) -> Iterator[Row | LeftOut]:
        """Yield the rows at `indices`, in that order, read ahead by the pool's threads.

        Threads suffice: reading, decoding and hashing release the GIL, and rows need not be copied
        between processes.
        """

        def read(task: list[int]) -> list[Row | LeftOut]:
            return [self.read(records[index]) for index in task]

        remaining = iter(indices)
        ahead: deque[Future[list[Row | LeftOut]]] = deque()
        while task := list(itertools.islice(remaining, TASK_RECORDS)):
            ahead.append(pool.submit(read, task))
            if len(ahead) > TASKS_AHEAD * self.workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
