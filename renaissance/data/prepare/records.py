"""What a dataset's own module lists: rows to be written, and what cannot be one."""

import array
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa

from renaissance.data.prepare.remote import is_address, read_address
from renaissance.errors import DataError

# Of all tables of images with captions.
CAPTION_SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.list_(pa.string())),
        ("image_id", pa.string()),
        ("split", pa.string()),
    ]
)


@attrs.frozen
class ImageFile:
    """Where the bytes of an image lie: a file, part of a file, or an address.

    Attributes:
        path: Path, or an address such as `s3://bucket/key`, which needs fsspec.
        offset: Where the image starts in the file, for members of a tar.
        size: Bytes from there; None up to the end.
    """

    path: str
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return self.path if self.size is None else f"{self.path} at byte {self.offset}"

    def stamp(self) -> str | None:
        """Return what changes when the file does, or None if there is no such file."""
        if is_address(self.path):
            return ""
        # Members of one tar follow each other: one look serves them all.
        return _cached_stamp(self.path) if self.size is not None else _stamp(self.path)

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: If they cannot be read.
        """
        if is_address(self.path):
            end = None if self.size is None else self.offset + self.size
            return read_address(self.path, self.offset or None, end)
        with open(self.path, "rb", buffering=0) as file:
            if self.size is None:
                return file.read()
            return os.pread(file.fileno(), self.size, self.offset)


def _stamp(path: str) -> str | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{status.st_size}/{status.st_mtime_ns}"


_cached_stamp = functools.lru_cache(maxsize=8)(_stamp)


@attrs.frozen
class Record:
    """A row to be written.

    Attributes:
        table: Name of the table.
        images: Image files, by the column that takes their bytes.
        values: The other columns.
        num_texts: How many texts the row holds, for the report.
    """

    table: str
    images: Mapping[str, ImageFile]
    values: Mapping[str, Any]
    num_texts: int


@attrs.frozen
class LeftOut:
    """Something that is not written.

    Attributes:
        table: Name of the table.
        record: What of the source it is.
        reason: Why.
        is_row: True for a whole row, False for one of its texts.
    """

    table: str
    record: str
    reason: str
    is_row: bool = True

    @property
    def kind(self) -> str:
        """The reason without its particulars: what is alike, to be counted together."""
        return re.sub(r"\d+", "N", re.split(r"[:(]", self.reason)[0]).strip()


@attrs.frozen(kw_only=True)
class Source:
    """A dataset as downloaded, ready to be written as tables.

    Attributes:
        name: Of the dataset; its manifest is `{name}_manifest.json`.
        path: The annotations, for the manifest and for messages.
        schema: The pyarrow schema of all tables.
        records: Lists the records, table by table or mixed.
        rows_per_file: A table is cut into `{table}_0.arrow`, `{table}_1.arrow` and so on of this
            many rows; None writes it as `{table}.arrow`.
        beside: Further JSON files to write, by name.
    """

    name: str
    path: str
    schema: Any
    records: Callable[[], Iterable[Record | LeftOut]]
    rows_per_file: int | None = None
    beside: Mapping[str, Any] = attrs.field(factory=dict)


class RecordFile:
    """Records of one table, kept in a nameless file: memory takes 8 bytes a record.

    Args:
        folder: Folder with room for the file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open while this lives
        self._ends = array.array("q", [0])
        self._sha256 = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: Record, stamps: Sequence[str]) -> None:
        """Add a record; `stamps` of its images go into the digest only."""
        images = {column: attrs.astuple(image) for column, image in record.images.items()}
        line = json.dumps([record.table, images, record.values, record.num_texts]).encode()
        self._file.write(line)
        self._sha256.update(line + ";".join(stamps).encode())
        self._ends.append(self._ends[-1] + len(line))

    def finish(self) -> str:
        """Return the digest of all records; from now on they can be read."""
        self._file.flush()
        return self._sha256.hexdigest()

    def __getitem__(self, position: int) -> Record:
        start, end = self._ends[position], self._ends[position + 1]
        # No seek: threads share the file.
        table, images, values, num_texts = json.loads(
            os.pread(self._file.fileno(), end - start, start)
        )
        files = {column: ImageFile(*image) for column, image in images.items()}
        return Record(table, files, values, num_texts)


def texts_to_keep(
    table: str, record: str, texts: Sequence[Any], what: str = "caption"
) -> Iterator[tuple[int, LeftOut | None]]:
    """Judge the texts of a row: yield the position of each, and what is wrong with it or None.

    Args:
        table: Name of the table.
        record: What the texts belong to, for the account of what is left out.
        texts: The texts.
        what: What they are.
    """
    for position, text in enumerate(texts):
        fault = text_fault(text)
        if fault is None:
            yield position, None
        else:
            yield position, LeftOut(table, record, f"{what} {position} {fault}", is_row=False)


def text_fault(text: Any) -> str | None:
    """Say what is wrong with a text, or None if it can be written."""
    if not isinstance(text, str):
        return f"is no text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return None


def captioned(
    table: str, image: ImageFile, captions: Sequence[Any], values: Mapping[str, Any]
) -> Iterator[Record | LeftOut]:
    """Yield the row of an image with its captions, and what is left out of it.

    Args:
        table: Name of the table.
        image: The image.
        captions: Its captions, in the order in which they are written.
        values: The other columns.
    """
    kept = []
    for position, fault in texts_to_keep(table, str(image), captions):
        if fault is None:
            kept.append(captions[position])
        else:
            yield fault
    if kept:
        yield Record(table, {"image": image}, {"caption": kept, **values}, len(kept))
    else:
        yield LeftOut(table, str(image), "no caption")


def choose_splits(
    source: Path, known: Sequence[str], splits: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the splits to prepare: those asked for, or all.

    Raises:
        DataError: If there is no such split.
    """
    for split in splits or ():
        if split not in known:
            raise DataError(
                f"{source}: no split '{split}'; it has {', '.join(known)}. Name one of these"
            )
    return tuple(splits or known)
