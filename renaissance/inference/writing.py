"""Predictions as a file: JSON lines, csv, Parquet, or the form that a task defines."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.contracts.objective import Objective

Row = Mapping[str, Any]
ROWS_PER_GROUP = 8192


def write_predictions(path: Path, rows: Iterable[Row], objective: Objective) -> int:
    """Write predictions in the form that the file's name says; return how many are errors.

    .jsonl is one JSON object per line, .csv and .parquet are tables, in which nested values are
    JSON. Any other name gets the objective's own form, as `evaluate --predictions` writes it, and
    errors go to a file of JSON lines beside it.

    Args:
        path: The file.
        rows: The predictions; those with the key "error" could not be made.
        objective: The objective that made them.

    Raises:
        OSError: If it cannot be written.
    """
    counter = _Errors()
    counted = counter.count(rows)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in counted)
    elif path.suffix == ".csv":
        _write_csv(path, list(counted))
    elif path.suffix == ".parquet":
        _write_parquet(path, list(counted))
    else:
        made: list[Row] = []
        errors: list[Row] = []
        for row in counted:
            (errors if "error" in row else made).append(row)
        with path.open("w", encoding="utf-8") as file:
            objective.write_predictions(made, file)
        if errors:
            beside = path.with_name(f"{path.name}.errors.jsonl")
            beside.write_text("".join(json.dumps(row) + "\n" for row in errors), encoding="utf-8")
    return counter.total


class _Errors:
    def __init__(self) -> None:
        self.total = 0

    def count(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.total += "error" in row
            yield row


def _flat(row: Row) -> dict[str, Any]:
    """Return a row whose values are no lists or mappings."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        for key, value in row.items()
    }


def _write_csv(path: Path, rows: list[Row]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)


def _write_parquet(path: Path, rows: list[Row]) -> None:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(key for row in flat for key in row))
    columns = {name: [row.get(name) for row in flat] for name in names}
    pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_GROUP)
