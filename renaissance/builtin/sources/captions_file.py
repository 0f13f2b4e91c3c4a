"""Reading a captions file: .jsonl, .csv, .tsv or .parquet."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import IO

from renaissance import DataError, shortened
from renaissance.prepare import bounded_lines, load_json, open_file, parquet_rows, read_limits

# Characters of the message of a library.
MAX_CAUSE = 200
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def captions_lines(path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield where each record is, for messages, and its values by column.

    Args:
        path: The file, or its address.

    Raises:
        DataError: If a line cannot be read or does not fit the header.
    """
    try:
        with open_file(path) as file:
            if path.endswith(".parquet"):
                yield from _parquet_rows(path, file)
            elif path.endswith(".jsonl"):
                yield from _json_lines(path, file)
            else:
                yield from _table_lines(path, file)
    # ArrowInvalid is a ValueError.
    except (OSError, ValueError) as error:
        cause = shortened(str(error), MAX_CAUSE)
        raise DataError(
            f"{path}: cannot be read ({cause}); expected a captions file. Correct it, or write it "
            "again"
        ) from error


def _parquet_rows(path: str, file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for row, values in enumerate(parquet_rows(file)):
        yield f"{path}: row {row}", values


def _table_lines(path: str, file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, object]]]:
    limits = read_limits()
    csv.field_size_limit(limits.record_bytes)
    lines = enumerate(bounded_lines(file, path), start=1)
    text = (
        part
        for number, line in lines
        # Lines end with "\r" alone on very old systems.
        for part in io.StringIO(_decoded(line, number), newline="")
    )
    if path.endswith(".tsv"):
        # A quotation mark is part of the text, as in most files of captions.
        rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        remedy = "Remove the tabs and line breaks within texts"
    else:
        rows = csv.reader(text, strict=True)
        remedy = "Put a text with commas or line breaks in quotation marks"
    try:
        columns = next(rows, [])
        header = shortened(", ".join(columns))
        if len(set(columns)) < len(columns):
            raise DataError(
                f"{path}: line {rows.line_num}: columns {header}; expected each name "
                "once. Rename a column"
            )
        for fields in rows:
            where = f"{path}: line {rows.line_num}"
            # An empty line has no fields.
            if len(fields) not in (0, len(columns)):
                counted = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
                raise DataError(f"{where}: {counted}; expected {len(columns)}: {header}. {remedy}")
            if fields:
                yield where, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        expected = f"; expected {limits.at_most('record_bytes')}" if "limit" in str(error) else ""
        raise ValueError(f"line {rows.line_num}: {error}{expected}") from error


def _json_lines(path: str, file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(bounded_lines(file, path), start=1):
        text = _decoded(line, number)
        if text.strip():
            try:
                content = load_json(text)
            except json.JSONDecodeError as error:
                # Its own message counts lines from the start of this one.
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
            # A number of thousands of digits, values that are nested too deeply.
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(content, dict):
                raise ValueError(f"line {number} is not an object")
            yield f"{path}: line {number}", content


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"line {number}: not UTF-8: {error.reason} at byte {error.start}"
        ) from error
