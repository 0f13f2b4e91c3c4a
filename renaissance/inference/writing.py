"""Predictions as a file: JSON lines, csv, Parquet, or the form that a task defines."""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from renaissance.contracts.objective import Objective
from renaissance.data.mapped_arrow import ArrowSchema, ArrowType
from renaissance.files import PARTIAL

Row = Mapping[str, Any]
# Begins anew with each call: a table is written in two passes, the first for its columns.
Rows: TypeAlias = Callable[[], Iterable[Row]]
ROWS_PER_GROUP = 8192
# Whole numbers from here on have no column type but text.
LARGE = 1 << 63


def write_predictions(path: Path, rows: Rows, objective: Objective) -> int:
    """Write predictions in the form that the file's name says; return how many are errors.

    .jsonl is one JSON object per line, .csv and .parquet are tables, in which nested values are
    JSON. Any other name gets the objective's own form, as `evaluate --predictions` writes it, and
    errors go to a file of JSON lines beside it. The file is there once it is whole. Memory does
    not grow with the number of rows, but for the objective's own form.

    Args:
        path: The file.
        rows: Returns the predictions; those with the key "error" could not be made.
        objective: The objective that made them.

    Raises:
        OSError: If it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        if path.suffix in WRITERS:
            WRITERS[path.suffix](partial, rows)
        else:
            _write_own_form(partial, path, rows, objective)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return sum("error" in row for row in rows())


def _write_json_lines(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows())


def _write_csv(path: Path, rows: Rows) -> None:
    names = dict.fromkeys(key for row in rows() for key in row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows())


def _write_parquet(path: Path, rows: Rows) -> None:
    schema = _schema(map(_flat, rows()))
    following = map(_flat, rows())
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(following, ROWS_PER_GROUP)):
            columns = (
                [_cell(row.get(field.name), field.type) for row in group] for field in schema
            )
            arrays = [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))


def _write_own_form(path: Path, final: Path, rows: Rows, objective: Objective) -> None:
    with path.open("w", encoding="utf-8") as file:
        objective.write_predictions([row for row in rows() if "error" not in row], file)
    errors = "".join(json.dumps(row) + "\n" for row in rows() if "error" in row)
    if errors:
        final.with_name(f"{final.name}.errors.jsonl").write_text(errors, encoding="utf-8")


WRITERS = {".jsonl": _write_json_lines, ".csv": _write_csv, ".parquet": _write_parquet}


def _flat(row: Row) -> dict[str, Any]:
    """Return a row whose values are no lists or mappings."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        for key, value in row.items()
    }


def _schema(rows: Iterator[Row]) -> ArrowSchema:
    """Return the columns of rows; one whose values are of several types is text."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            is_large = isinstance(value, int) and not -LARGE <= value < LARGE
            kinds.setdefault(name, set()).add(str if is_large else type(value))
    return pa.schema([(name, _arrow_type(found - {type(None)})) for name, found in kinds.items()])


def _arrow_type(kinds: set[type]) -> ArrowType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _cell(value: object, kind: ArrowType) -> object:
    return str(value) if value is not None and pa.types.is_string(kind) else value
