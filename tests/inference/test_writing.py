"""Predictions as files: streamed, whole or not there, of values of any type."""

import csv
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.answering import objective

from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.inference import writing
from renaissance.inference.writing import write_predictions

NUM_ROWS = 500
GROUP = 50


class Row(dict[str, Any]):
    """A row of which one can tell whether it is still in memory."""


class Counted:
    """Rows that count how many of them are in memory at once."""

    def __init__(self) -> None:
        self.num_alive = 0
        self.most = 0

    def __call__(self) -> Iterator[Row]:
        for index in range(NUM_ROWS):
            row = Row(index=index, prediction=f"c{index % 3}", probabilities={"c0": index / 1000})
            if index == 333:
                row = Row(index=index, error="row 333: no such file")
            self.num_alive += 1
            self.most = max(self.most, self.num_alive)
            weakref.finalize(row, self._gone)
            yield row

    def _gone(self) -> None:
        self.num_alive -= 1


@pytest.mark.parametrize(("suffix", "most"), [("jsonl", 2), ("csv", 2), ("parquet", GROUP + 2)])
def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, suffix: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROWS_PER_GROUP", GROUP)
    rows = Counted()
    path = tmp_path / f"out.{suffix}"
    assert write_predictions(path, rows, objective(SNLIVE)) == 1
    assert rows.num_alive <= 1
    assert rows.most <= most
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == "parquet":
        assert pq.ParquetFile(path).num_row_groups == NUM_ROWS // GROUP
        read: list[Any] = pq.read_table(path).to_pylist()
        assert read[333]["prediction"] is None
    elif suffix == "csv":
        read = list(csv.DictReader(path.open(newline="")))
        assert read[333]["prediction"] == ""
    else:
        read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [int(row["index"]) for row in read] == list(range(NUM_ROWS))
    assert read[333]["error"] == "row 333: no such file"
    assert read[499]["prediction"] == "c1"
    probabilities = read[499]["probabilities"]
    expected = {"c0": 0.499}
    assert probabilities == (expected if suffix == "jsonl" else json.dumps(expected))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "txt"])
def test_a_file_is_whole_or_not_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    num_calls = 0

    def rows() -> Iterator[Row]:
        nonlocal num_calls
        num_calls += 1
        for index in range(9):
            # Tables are read twice; the first time, for their columns.
            if index == 7 and num_calls == (2 if suffix in ("csv", "parquet") else 1):
                raise OSError("the disk is full")
            yield Row(identifier=str(index), prediction="neutral")

    with pytest.raises(OSError, match="the disk is full"):
        write_predictions(path, rows, objective(SNLIVE))
    assert list(tmp_path.iterdir()) == []


def test_types_of_parquet_columns(tmp_path: Path) -> None:
    rows = [
        {"index": 0, "score": 1, "flag": True, "id": 7, "nothing": None, "hash": 1 << 63},
        {"index": 1, "score": 0.5, "flag": None, "id": "x7", "nothing": None, "hash": 1},
    ]
    write_predictions(tmp_path / "out.parquet", lambda: rows, objective(SNLIVE))
    table = pq.read_table(tmp_path / "out.parquet")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "index": pa.int64(),
        "score": pa.float64(),
        "flag": pa.bool_(),
        "id": pa.string(),
        "nothing": pa.string(),
        "hash": pa.string(),
    }
    assert table.to_pylist() == [
        {**rows[0], "id": "7", "hash": str(1 << 63)},
        {**rows[1], "hash": "1"},
    ]


def test_a_file_without_rows_that_could_be_read(tmp_path: Path) -> None:
    rows = [{"index": 0, "error": "row 0: damaged"}]
    assert write_predictions(tmp_path / "out.csv", lambda: rows, objective(SNLIVE)) == 1
    assert (tmp_path / "out.csv").read_text() == "index,error\n0,row 0: damaged\n"
