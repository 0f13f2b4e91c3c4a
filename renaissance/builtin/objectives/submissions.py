"""Prediction files for benchmarks: writing them, and reading them to check them."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from renaissance import Answer, DataError, quoted


def write_csv(rows: Iterable[Sequence[object]], file: TextIO) -> None:
    """Write rows as comma-separated values."""
    csv.writer(file, lineterminator="\n").writerows(rows)


def csv_rows(path: Path, expected: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each line, empty lines included.

    Args:
        path: The file of predictions.
        expected: The expected form, for messages.

    Raises:
        DataError: If the file cannot be read.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise wrong_form(path, f"line {reader.line_num}: {error}", expected) from error


def csv_answers(rows: Iterable[tuple[int, list[str]]], classes: Sequence[str]) -> list[Answer]:
    """Return the answers in lines of identifier,prediction."""
    return [_csv_answer(f"line {line}", fields, classes) for line, fields in rows]


def _csv_answer(where: str, fields: list[str], classes: Sequence[str]) -> Answer:
    if len(fields) != 2:
        return Answer(where, None, f"{quoted(','.join(fields))}; expected identifier,prediction")
    identifier, prediction = fields
    if prediction not in classes:
        fault = f"prediction is {quoted(prediction)}; expected {', '.join(classes)}"
        return Answer(where, identifier, fault)
    return Answer(where, identifier)


def read_text(
    path: Path, expected: str = "the file that 'renaissance evaluate --predictions' wrote"
) -> str:
    """Return the content of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected {expected}. Name that file"
        ) from error


def wrong_form(path: Path, actual: str, expected: str) -> DataError:
    """Return the error for a file of predictions that does not have the expected form."""
    return DataError(
        f"{path}: {actual}; expected {expected}. Name the objective that predicted it, or "
        "write it again with 'renaissance evaluate --predictions'"
    )
