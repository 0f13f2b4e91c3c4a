"""Rows of equal size, computed once and kept on disk for every process that needs them."""

import contextlib
import errno
import math
import os
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from renaissance.data.tables.cache import say
from renaissance.errors import DataError

INDEX, ROWS = "index.sqlite", "rows.bin"
# Seconds to wait for a process that is writing; then, a row is made again, or not kept.
PATIENCE = 10
TABLE = (
    "CREATE TABLE IF NOT EXISTS rows"
    "(slot INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, checksum INTEGER NOT NULL)"
)


class _Files:
    """The files of a cache, as one process has them open."""

    def __init__(self, folder: Path) -> None:
        self.process = os.getpid()
        # Not mapped: reading a mapped file that was cut short would end the process.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self.rows = os.fdopen(os.open(folder / ROWS, flags), "r+b", buffering=0)
        self.index = sqlite3.connect(
            folder / INDEX, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        # A process that is killed leaves a journal, from which the next one restores the index.
        self.index.execute("PRAGMA journal_mode = TRUNCATE")
        # After a power failure, checksums tell which rows were lost.
        self.index.execute("PRAGMA synchronous = OFF")
        self.index.execute(TABLE)

    def close(self) -> None:
        self.rows.close()
        self.index.close()


class RowCache:
    """Rows by key, which many processes read and write.

    A row is written before its entry in the index, in one transaction, so there are only whole
    rows; and its checksum is compared whenever it is read. What cannot be read is computed again,
    so a cache never changes a result, and losing it costs only time.

    Args:
        folder: Folder of this cache; made if it is missing.
        shape: Shape of each row.
        dtype: Type of its elements.
        max_bytes: Limit of the file of rows; what exceeds it is not kept.

    Raises:
        DataError: If the folder cannot be written.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, ...], dtype: torch.dtype, max_bytes: int
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = dtype
        self.row_bytes = math.prod(shape) * dtype.itemsize
        self.max_rows = max_bytes // self.row_bytes
        self._files: _Files | None = None
        # Those of the process that forked this one, which must not close them.
        self._inherited: list[_Files] = []
        self._said: set[str] = set()
        self._is_stopped = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{folder}: cannot keep images there ({error}); expected a folder that can be "
                "written. Name another one (data.cache_folder), or set data.cache = 'none'"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None, "_inherited": []}

    def __len__(self) -> int:
        """Return the number of rows."""
        with contextlib.suppress(sqlite3.Error):
            (last,) = self._open().index.execute("SELECT max(slot) FROM rows").fetchone()
            return 0 if last is None else int(last) + 1
        return 0

    def __contains__(self, key: bytes) -> bool:
        """Return whether a row is there, without reading it."""
        return self._find(key) is not None

    def get(self, key: bytes) -> Tensor | None:
        """Return a row, or None if it is missing or damaged."""
        found = self._find(key)
        if found is None:
            return None
        slot, checksum = found
        data = torch.empty(self.row_bytes, dtype=torch.uint8)
        buffer = data.numpy().data
        try:
            file = self._open().rows
            file.seek(slot * self.row_bytes)
            is_whole = file.readinto(buffer) == self.row_bytes
        except OSError:
            is_whole = False
        if is_whole and zlib.crc32(buffer) == checksum:
            return data.view(self.dtype).view(self.shape)
        self._say_once(f"cache: {self.folder / ROWS}: damaged; its damaged rows are made again")
        return None

    def put(self, rows: Mapping[bytes, Tensor]) -> None:
        """Keep rows, as far as there is room; a row that is there already is replaced."""
        if self._is_stopped or not rows:
            return
        try:
            self._write(rows)
        except (OSError, sqlite3.Error) as error:
            code = getattr(error, "sqlite_errorcode", None)
            # Another process has been writing for long, or is stopped.
            if code == sqlite3.SQLITE_BUSY:
                return
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._start_anew()
                return
            self._is_stopped = True
            self._say_once(
                f"cache: {self.folder}: no further images are kept ({error}). The run goes on "
                "without. Free space, or name another folder (data.cache_folder)"
            )

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        if self._files is not None and self._files.process == os.getpid():
            self._files.close()
            self._files = None

    def _find(self, key: bytes) -> tuple[int, int] | None:
        query = "SELECT slot, checksum FROM rows WHERE key = ?"
        try:
            found: tuple[int, int] | None = self._open().index.execute(query, (key,)).fetchone()
            return found
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._start_anew()
        return None

    def _write(self, rows: Mapping[bytes, Tensor]) -> None:
        files = self._open()
        # One writer at a time.
        files.index.execute("BEGIN IMMEDIATE")
        try:
            for key, row in rows.items():
                slot = self._slot(files, key)
                if slot < self.max_rows:
                    files.rows.seek(slot * self.row_bytes)
                    data = row.contiguous().view(-1).view(torch.uint8).numpy().data
                    if files.rows.write(data) != self.row_bytes:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    values = (slot, key, zlib.crc32(data))
                    files.index.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", values)
            files.index.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                files.index.execute("ROLLBACK")
            raise

    @staticmethod
    def _slot(files: _Files, key: bytes) -> int:
        """Return the place of a key's row: where it is, or after the last row."""
        query = (
            "SELECT coalesce((SELECT slot FROM rows WHERE key = ?),"
            " (SELECT max(slot) + 1 FROM rows), 0)"
        )
        (slot,) = files.index.execute(query, (key,)).fetchone()
        return int(slot)

    def _open(self) -> _Files:
        if self._files is not None and self._files.process != os.getpid():
            self._inherited.append(self._files)
            self._files = None
        if self._files is None:
            try:
                self._files = _Files(self.folder)
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", None)
                if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise
                self._start_anew()
                self._files = _Files(self.folder)
        return self._files

    def _start_anew(self) -> None:
        """Remove a damaged index, without which the rows are lost.

        A process that still has it open may overwrite rows of the new one; their checksums tell.
        """
        self._say_once(f"cache: {self.folder / INDEX}: damaged; it is made again from the images")
        self.close()
        for name in (INDEX, f"{INDEX}-journal", ROWS):
            (self.folder / name).unlink(missing_ok=True)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)
