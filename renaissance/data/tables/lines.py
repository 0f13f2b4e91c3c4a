"""Text files of rows: csv, tsv and JSON lines."""

import codecs
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from renaissance.data.prepare.remote import open_file
from renaissance.data.tables.arrow_rows import LINE, check_unicode, write_cells, write_objects
from renaissance.data.tables.files import TableFile
from renaissance.errors import DataError, quoted, shortened
from renaissance.limits import load_json, read_limits


def write_delimited(table: TableFile, path: Path) -> int:
    """Write a csv or tsv file as an Arrow file, and return its number of rows.

    Raises:
        DataError: If it cannot be read; the message names the line.
    """
    with _opened(table) as file:
        rows = _delimited_rows(file, table)
        _, header = next(rows, (1, []))
        _check_header(header, table)
        return write_cells(path, header, _whole_rows(rows, header, table))


def write_json_lines(table: TableFile, path: Path) -> int:
    """Write a file of JSON lines as an Arrow file, and return its number of rows.

    Raises:
        DataError: If it cannot be read; the message names the line.
    """
    with _opened(table) as file:
        return write_objects(path, LINE, _objects(file, table))


def _opened(table: TableFile) -> IO[bytes]:
    try:
        return open_file(table.path)
    except OSError as error:
        raise DataError(
            f"{table.path}: cannot be read ({error}); expected a {table.format} file. Check the "
            "path and your access to it"
        ) from error


def _delimited_rows(file: IO[bytes], table: TableFile) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line that it begins in."""
    limits = read_limits()
    # A longer cell is taken for a mistake, such as a quotation mark that is never closed.
    csv.field_size_limit(limits.record_bytes)
    lines = _lines(file, table)
    if table.format == "tsv":
        # A quotation mark is part of the text, as in most files of captions.
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{table.path}: line {line}: not a row ({error}); expected cells with commas, "
                "line breaks or quotation marks within quotation marks that are closed, and of "
                f"characters {limits.at_most('record_bytes')}. Correct the line, or write the file "
                "again"
            ) from error
        if row is None:
            return
        if row:
            yield line, row


def _check_header(header: list[str], table: TableFile) -> None:
    where = f"{table.path}: line 1"
    if not header:
        raise DataError(f"{where}: empty; expected the names of the columns. Add them")
    names = [LINE, *header]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(
            f"{where}: two columns are named {repeated!r}; expected a name for each. Rename one"
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError(
            f"{where}: {quoted(header[0])} has no comma; expected names of columns with commas "
            "between them. Write the file with commas, or as .tsv with tabs"
        )


def _whole_rows(
    rows: Iterator[tuple[int, list[str]]], header: list[str], table: TableFile
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != len(header):
            remedy = (
                "Put a text with commas in quotation marks"
                if table.format == "csv"
                else "Remove the tabs within texts"
            )
            shown = shortened(", ".join(map(quoted, row)))
            cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
            raise DataError(
                f"{table.path}: line {line}: {cells} ({shown}); expected {len(header)}: "
                f"{', '.join(header)}. {remedy}, or complete the row"
            )
        yield line, row


def _objects(file: IO[bytes], table: TableFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(file, table), start=1):
        if not line.strip():
            continue
        where = f"{table.path}: line {number}"
        try:
            content = load_json(line)
        except ValueError as error:
            raise DataError(
                f"{where}: not valid JSON ({error}); expected one object per line, and not "
                f"{quoted(line)}. Correct the line, or write the file again"
            ) from error
        if not isinstance(content, dict):
            raise DataError(
                f"{where}: {quoted(content)}; expected a JSON object, such as "
                '{"image": "1.jpg", "text": "a dog"}. Correct the line'
            )
        if "\\u" in line:
            check_unicode(content, where)
        yield number, content


def _lines(file: IO[bytes], table: TableFile) -> Iterator[str]:
    """Yield the lines, which must be UTF-8, without a byte order mark."""
    limits = read_limits()
    for number in itertools.count(1):
        where = f"{table.path}: line {number}"
        try:
            line = file.readline(limits.record_bytes + 1)
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error}). Copy the file again") from error
        if not line:
            return
        if len(line) > limits.record_bytes:
            raise DataError(
                f"{where}: longer than {limits.record_bytes:,} bytes; expected a row of "
                f"{limits.at_most('record_bytes')}. It begins with {quoted(line[:60])}; keep "
                "images in files of their own, and name them, or raise the limit"
            )
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{where}: UTF-16; expected UTF-8. Save the file as UTF-8")
            # Spreadsheet programs begin files with it.
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            around = line[max(0, error.start - 20) : error.start + 20]
            raise DataError(
                f"{where}: byte {error.start + 1}, {line[error.start]:#04x}, is not UTF-8 (in "
                f"{around!r}); expected UTF-8 in the whole file. Save it as UTF-8; if it was put "
                "together from several files, convert those of another encoding first"
            ) from error
