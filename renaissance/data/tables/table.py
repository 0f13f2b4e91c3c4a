"""Rows of tables in any format, read from memory-mapped Arrow files.

Arrow files are mapped where they are. Every other format is converted once, into a folder for such
files, so that any row can be read at any time, and processes share the memory.
"""

import bisect
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from renaissance.data.arrow import ArrowTable, is_text
from renaissance.data.mapped_arrow import ArrowArray, ArrowSchema, ArrowType
from renaissance.data.tables.arrow_rows import CELLS, KEY, LINE
from renaissance.data.tables.cache import cached
from renaissance.data.tables.cells import empty, num_bytes, number_type, plain_type
from renaissance.data.tables.files import Format, TableFile
from renaissance.data.tables.lines import write_delimited, write_json_lines
from renaissance.data.tables.tar import write_tar_index
from renaissance.data.tables.typed import is_compressed, write_arrow, write_parquet
from renaissance.errors import DataError, did_you_mean
from renaissance.limits import read_limits

CONVERTERS: dict[Format, Callable[[TableFile, Path], int]] = {
    "csv": write_delimited,
    "tsv": write_delimited,
    "jsonl": write_json_lines,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "tar": write_tar_index,
}

# Columns that say where a row is, and what they say.
PLACES = ((LINE, "line"), (KEY, "key"))


class Table:
    """The rows of one or several files.

    Args:
        files: The files; their rows are concatenated in this order.
        columns: Columns to read, which every file must have; None for all of the first file.
        cache: Folder for files that are made from others.

    Raises:
        DataError: If a file cannot be read, has no rows, or lacks a column.

    Attributes:
        files: The files.
        columns: The columns.
        schemas: The schema of each file, as it is read.
    """

    def __init__(
        self, files: Sequence[TableFile], columns: Sequence[str] | None, cache: Path
    ) -> None:
        self.files = tuple(files)
        paths = [_readable(file, cache) for file in files]
        self.schemas = schemas = [_read_schema(path) for path in paths]
        self.columns = _columns_of(self.files, schemas, columns)
        self._rows = [ArrowTable([path], self.columns, (LINE, KEY)) for path in paths]
        # First row of each file, and the end.
        self._starts = [0, *itertools.accumulate(map(len, self._rows))]
        self._json = [_json_columns(schema) for schema in schemas]
        # Where each file says where its rows are.
        self._places = [next((p for p in PLACES if p[0] in s.names), None) for s in schemas]

    def __len__(self) -> int:
        return self._starts[-1]

    def file_of(self, row: int) -> TableFile:
        """Return the file that holds a row."""
        return self.files[self._locate(row)[0]]

    def where(self, row: int) -> str:
        """Return where a row is in its file: its line, its key, or its index."""
        return self._where(*self._locate(row))

    def source(self, row: int) -> str:
        """Return file name and place of a row, for messages."""
        file, row = self._locate(row)
        return f"{self.files[file].name}: {self._where(file, row)}"

    def _where(self, file: int, row: int) -> str:
        place = self._places[file]
        if place is None:
            return f"row {row}"
        column, name = place
        return f"{name} {self._rows[file].value(column, row).as_py()}"

    def value(self, column: str, row: int) -> Any:
        """Return the value of a cell; one of a csv or tsv file is a text, or None if it is empty.

        Raises:
            DataError: If it cannot be read.
        """
        file, row_in_file = self._locate(row)
        try:
            value = self._rows[file].value(column, row_in_file).as_py()
        except (ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{self.source(row)}: column {column!r} is damaged ({error}). Copy the file again, "
                "or write it again"
            ) from error
        is_json = value is not None and column in self._json[file]
        return json.loads(value) if is_json else value

    def values(self, column: str, of_file: int | None = None) -> Iterator[Any]:
        """Yield the values of a column, row by row: of all files, or of one."""
        for file, array in self._arrays(column):
            if of_file not in (None, file):
                continue
            with self._naming_damage(file, column):
                values = array.to_pylist()
                if column in self._json[file]:
                    values = [None if value is None else json.loads(value) for value in values]
            yield from values

    def number_type(self, column: str) -> type[int] | type[float] | None:
        """Return int or float if all texts of a column in csv and tsv files are such numbers."""
        has_texts = [_cells_of(schema) == b"text" for schema in self.schemas]
        return number_type([array for file, array in self._arrays(column) if has_texts[file]])

    def is_json(self, column: str) -> bool:
        """Return whether a column holds JSON: values of any type, in files without types."""
        return any(column in columns for columns in self._json)

    def empty(self, column: str) -> NDArray[np.bool_]:
        """Return which cells of a column are empty: null, blank text, or no bytes; (rows,)."""
        parts = []
        for file, array in self._arrays(column):
            with self._naming_damage(file, column):
                parts.append(empty(array, column in self._json[file]))
        return np.concatenate(parts)

    def check_texts(self, column: str) -> None:
        """Check that a column holds texts of bounded length.

        Raises:
            DataError: If it does not; the message names the file, and the row if one is too long.
        """
        self.check_type(column, is_text, "text")
        limits = read_limits()
        first = 0
        for file, array in self._arrays(column):
            with self._naming_damage(file, column):
                lengths = num_bytes(array)
            if lengths.size and lengths.max() > limits.record_bytes:
                row = first + int(lengths.argmax())
                raise DataError(
                    f"{self.source(row)}: column {column!r} holds a text of {lengths.max():,} "
                    f"bytes; expected {limits.at_most('record_bytes')}. Shorten it, remove the "
                    "row, or raise the limit"
                )
            first += len(array)

    def check_type(self, column: str, accepts: Callable[[ArrowType], bool], expected: str) -> None:
        """Check the type of a column in the files that have types.

        Raises:
            DataError: If it is not accepted; the message names the file and both types.
        """
        for file, schema in zip(self.files, self.schemas, strict=True):
            kind = plain_type(schema.field(column).type)
            if not accepts(kind):
                raise DataError(
                    f"{file.path}: column {column!r} is {kind}; expected {expected}. Name another "
                    "column, or write the file with that type"
                )

    def rows_of_files(self) -> list[range]:
        """Return the rows of each file."""
        return [range(*ends) for ends in itertools.pairwise(self._starts)]

    @contextlib.contextmanager
    def _naming_damage(self, file: int, column: str) -> Iterator[None]:
        """Name the file, and if possible the row, of values that cannot be read."""
        try:
            yield
        except (ValueError, pa.ArrowException) as error:
            for row in self.rows_of_files()[file]:
                self.value(column, row)
            raise DataError(
                f"{self.files[file].path}: column {column!r} is damaged ({error}). Copy the file "
                "again, or write it again"
            ) from error

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the index of a row's file, and the row in that file."""
        if not 0 <= row < len(self):
            raise IndexError(f"row: got {row}, expected 0 <= row < {len(self)}")
        file = bisect.bisect_right(self._starts, row) - 1
        return file, row - self._starts[file]

    def _arrays(self, column: str) -> Iterator[tuple[int, ArrowArray]]:
        """Yield a column's arrays, each with the index of its file."""
        for file, rows in enumerate(self._rows):
            yield from ((file, array) for array in rows.column(column))


def column_names(files: Sequence[TableFile], cache: Path) -> tuple[str, ...]:
    """Return the columns of the first file, without opening the rows.

    Args:
        files: The files.
        cache: Folder for files that are made from others.

    Raises:
        DataError: If a file cannot be read, or lacks one of these columns.
    """
    return _columns_of(files, [_read_schema(_readable(file, cache)) for file in files], None)


def _columns_of(
    files: Sequence[TableFile], schemas: Sequence[ArrowSchema], columns: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the columns to read, which every file must have; None for all of the first file."""
    names = [name for name in schemas[0].names if name not in (LINE, KEY)]
    chosen = tuple(dict.fromkeys(names if columns is None else columns))
    for file, schema in zip(files, schemas, strict=True):
        _check_columns(file, schema, chosen)
    return chosen


def _readable(file: TableFile, cache: Path) -> Path:
    """Return an Arrow file with the rows of a file, which is made if there is none."""
    if file.format == "arrow" and not file.is_remote and not is_compressed(file):
        return Path(file.path)

    def convert(path: Path) -> None:
        if CONVERTERS[file.format](file, path) == 0:
            raise DataError(
                f"{file.path}: no rows; expected at least one. Add some, or leave the file out"
            )

    return cached(file, "rows", cache, convert)


def _read_schema(path: Path) -> ArrowSchema:
    with pa.memory_map(str(path)) as mapped:
        try:
            return pa.ipc.open_file(mapped).schema
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_stream(mapped).schema


def _cells_of(schema: ArrowSchema) -> bytes:
    return bytes((schema.metadata or {}).get(CELLS, b""))


def _json_columns(schema: ArrowSchema) -> frozenset[str]:
    texts = (field.name for field in schema if is_text(field.type) and field.name != KEY)
    return frozenset(texts if _cells_of(schema) == b"json" else ())


def _check_columns(file: TableFile, schema: ArrowSchema, columns: Sequence[str]) -> None:
    known = [name for name in schema.names if name != LINE]
    missing = [name for name in columns if name not in known]
    if missing:
        raise DataError(
            f"{file.path}: no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, known))}{did_you_mean(missing[0], known)}"
        )
