"""Tab-separated files without quoting, read line by line from disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from renaissance import DataError

NEWLINE = ord("\n")
BYTE_ORDER_MARK = "\ufeff"
AGAIN = "Download it again, or let the run skip such lines with data.max_bad_samples"


class TsvFile:
    """Rows of text in a memory-mapped file; only the offsets of the lines are kept in memory.

    Args:
        path: The file.
        columns: Names of its columns; None to take them from the first line.

    Attributes:
        columns: Names of the columns.

    Raises:
        DataError: If the file is missing or empty.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path = path
        if not path.is_file() or path.stat().st_size == 0:
            state = "empty" if path.is_file() else "no such file"
            raise DataError(
                f"{path}: {state}; expected a file of GLUE's own download. Unpack it there, or set "
                f"data.root to the folder that holds {path.parent.name}/"
            )
        self._bytes = np.memmap(path, np.uint8, "r")
        ends = np.flatnonzero(self._bytes == NEWLINE)
        if self._bytes[-1] != NEWLINE:
            ends = np.append(ends, len(self._bytes))
        self._ends = ends
        self._starts = np.concatenate([[0], ends[:-1] + 1])
        self._first_row = 0
        if columns is None:
            columns = self._fields(0)
            self._first_row = 1
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self._ends) - self._first_row

    def source(self, row: int) -> str:
        """Return file and line of a row, for messages."""
        return f"{self.path}: line {row + self._first_row + 1}"

    def row(self, row: int) -> dict[str, str]:
        """Return the fields of a row by column.

        Raises:
            DataError: If their number is not that of the columns, or the line is not UTF-8.
        """
        fields = self._fields(row + self._first_row)
        if len(fields) != len(self.columns):
            raise DataError(
                f"{self.source(row)}: {len(fields)} columns, expected {len(self.columns)}, "
                f"separated by tabs: {', '.join(self.columns)}. {AGAIN}"
            )
        return dict(zip(self.columns, fields, strict=True))

    def _fields(self, line: int) -> list[str]:
        content = bytes(self._bytes[self._starts[line] : self._ends[line]])
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: line {line + 1}: not UTF-8 ({error.reason} at byte {error.start}). "
                f"{AGAIN}"
            ) from error
        return text.removeprefix(BYTE_ORDER_MARK).removesuffix("\r").split("\t")
