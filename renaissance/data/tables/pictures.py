"""The images of a table: by path or address, as bytes, or as members of a tar."""

import functools
import hashlib
import os
import re
from collections.abc import Hashable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from renaissance.contracts.source import ImageFile
from renaissance.data.arrow import is_binary, is_text
from renaissance.data.mapped_arrow import ArrowType
from renaissance.data.prepare.image_files import read_image
from renaissance.data.prepare.remote import is_address
from renaissance.data.tables.arrow_rows import write_batches
from renaissance.data.tables.cache import cached
from renaissance.data.tables.cells import plain_type
from renaissance.data.tables.files import TableFile
from renaissance.data.tables.table import Table
from renaissance.errors import DataError, quoted

EXPECTED = "the path of an image, the bytes of one, or a struct of both"
# A drive, or a server.
WINDOWS = re.compile(r"^([A-Za-z]:|/)/")


class ImageColumn:
    """A column of images.

    A path is relative to the folder of its table, or else to `root`.

    Args:
        table: The table.
        column: The column.
        root: `data.root`.
        max_bytes: A larger file is read no further than one byte beyond.

    Raises:
        DataError: If the column cannot hold images.
    """

    def __init__(self, table: Table, column: str, root: Path, max_bytes: int) -> None:
        self._table = table
        self._column = column
        self._root = str(root.absolute())
        self._max_bytes = max_bytes
        table.check_type(column, _may_be_image, EXPECTED)

    def read(self, row: int) -> tuple[bytes, Hashable]:
        """Return the bytes of an image, and its identifier: the path, or a digest of the bytes.

        Raises:
            DataError: If it cannot be read; the message names file, row and cause.
        """
        value = self._table.value(self._column, row)
        if isinstance(value, dict) and "offset" in value:
            data = self._member(value, row)
        elif isinstance(value, dict) and value.get("bytes"):
            data = value["bytes"]
        elif isinstance(value, bytes):
            data = value
        else:
            path = self._path(value, row)
            return self._file(ImageFile(path), row), os.path.normpath(path)
        return data, _digest(data)

    def keys(self, cache: Path) -> Iterator[str]:
        """Yield a key of each row's image, which depends neither on its row nor on its table.

        It is the path relative to `root`, or a digest of the bytes; "" if there is no image. Where
        bytes must be read for it, that is done once.

        Args:
            cache: Folder for digests.
        """
        table = self._table
        for index, rows in enumerate(table.rows_of_files()):
            file = table.files[index]
            if is_text(plain_type(table.schemas[index].field(self._column).type)):
                # Looking for a file takes longer than remembering where it was.
                path_key = functools.cache(partial(self._path_key, file))
                for value in table.values(self._column, index):
                    yield path_key(value if isinstance(value, str) else "")
                continue
            purpose = f"images of {self._column}, {self._root}"
            path = cached(file, purpose, cache, partial(self._write_keys, rows))
            with pa.memory_map(str(path)) as mapped:
                yield from pa.ipc.open_file(mapped).read_all()["key"].to_pylist()

    def _write_keys(self, rows: range, path: Path) -> None:
        schema = pa.schema([("key", pa.string())])
        batches = (
            pa.record_batch([[self._key(row) for row in rows[start : start + 1000]]], schema=schema)
            for start in range(0, len(rows), 1000)
        )
        write_batches(path, schema, batches)

    def _key(self, row: int) -> str:
        value = self._table.value(self._column, row)
        if isinstance(value, dict) and "bytes" in value:
            value = value["bytes"] or value.get("path")
        if not value or isinstance(value, str):
            return self._path_key(self._table.file_of(row), value or "")
        return str(self.read(row)[1])

    def _path_key(self, table: TableFile, written: str) -> str:
        if not written:
            return ""
        path = self._find(written, table) or self._candidates(written, table)[0]
        return path if is_address(path) else os.path.relpath(path, self._root)

    def _path(self, value: object, row: int) -> str:
        if isinstance(value, dict):
            value = value.get("path")
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{self._where(row)} is {quoted(value)}; expected {EXPECTED}. Complete it, or "
                'leave out rows without an image with on_empty = "skip"'
            )
        table = self._table.file_of(row)
        path = self._find(value, table)
        if path is not None:
            return path
        where, tried = self._where(row), self._candidates(value, table)
        if WINDOWS.match(value.strip().replace("\\", "/")):
            raise DataError(
                f"{where} is {quoted(value)}, a path of another computer; expected one relative to "
                "the table or to data.root. Write relative paths"
            )
        raise DataError(
            f"{where} is {quoted(value)}: no such file; expected {' or '.join(tried)}. Paths are "
            "relative to the table, or else to data.root"
        )

    def _where(self, row: int) -> str:
        return f"{self._table.source(row)}: column {self._column!r}"

    def _find(self, written: str, table: TableFile) -> str | None:
        candidates = self._candidates(written, table)
        return next((p for p in candidates if is_address(p) or _is_file(p)), None)

    def _candidates(self, written: str, table: TableFile) -> list[str]:
        path = written.strip().replace("\\", "/")
        if is_address(path) or os.path.isabs(path):
            return [path]
        return list(dict.fromkeys([f"{table.folder}/{path}", f"{self._root}/{path}"]))

    def _member(self, value: dict[str, int], row: int) -> bytes:
        table = self._table.file_of(row)
        data = self._file(ImageFile(table.path, value["offset"], value["size"]), row)
        if len(data) != value["size"]:
            raise DataError(
                f"{self._table.source(row)}: {len(data)} of {value['size']} bytes of the image; "
                f"{table.path} has become shorter since this run began. Copy it again"
            )
        return data

    def _file(self, file: ImageFile, row: int) -> bytes:
        try:
            return read_image(file, self._max_bytes + 1)
        except DataError:
            raise
        # The backends of fsspec raise all kinds of errors.
        except Exception as error:
            raise DataError(
                f"{self._table.source(row)}: {file} cannot be read ({error}). Check the file and "
                "your access to it, or let the run skip it with data.max_bad_samples"
            ) from error


def _is_file(path: str) -> bool:
    # A path with a null character cannot be one.
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def _digest(data: bytes) -> str:
    # Processors have instructions for it; BLAKE2 takes twice as long.
    return hashlib.sha256(data).hexdigest()


def _may_be_image(kind: ArrowType) -> bool:
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return bool(names & {"bytes", "path"}) or names == {"offset", "size"}
    return is_text(kind) or is_binary(kind)
