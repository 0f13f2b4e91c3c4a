"""Parquet and Arrow files whose values are there once, and are repeated by an index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from renaissance import DataError
from renaissance.builtin.sources.captions_file import captions_lines
from renaissance.data.prepare.parquet import BATCH_BYTES, parquet_batches
from renaissance.data.tables.files import TableFile
from renaissance.data.tables.table import Table
from renaissance.limits import ReadLimits, reading_within

# Of 3 MiB each: written out, 40 rows would be 120 MiB, in a file of 20 kB.
LONG = [letter * (3 << 20) for letter in "ab"]
ROWS = [0, 1, 1, 0, 0] * 8


def write_parquet(path: Path) -> None:
    table = pa.table(
        {
            "image": [str(row) for row in range(len(ROWS))],
            "caption": pa.DictionaryArray.from_arrays(pa.array(ROWS, pa.int32()), pa.array(LONG)),
        }
    )
    pq.write_table(table, path)
    assert path.stat().st_size < 1 << 20


def test_values_that_are_there_once_are_written_out_a_few_at_a_time(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet")
    with (tmp_path / "t.parquet").open("rb") as file:
        _, batches = parquet_batches(file)
        sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == len(ROWS)
    assert max(sizes) <= BATCH_BYTES // len(LONG[0]) == 2
    table = Table([TableFile(str(tmp_path / "t.parquet"), "parquet")], ["caption"], tmp_path)
    assert [LONG.index(value) for value in table.values("caption")] == ROWS
    lines = captions_lines(str(tmp_path / "t.parquet"))
    assert [(line["image"], LONG.index(str(line["caption"]))) for _, line in lines] == [
        (str(row), index) for row, index in enumerate(ROWS)
    ]


def test_ordinary_values_are_read_in_large_batches(tmp_path: Path) -> None:
    words = [f"word {row % 100}" for row in range(20_000)]
    pq.write_table(pa.table({"w": words}), tmp_path / "t.parquet")
    with (tmp_path / "t.parquet").open("rb") as file:
        assert [batch.num_rows for batch in parquet_batches(file)[1]] == [8192, 8192, 3616]
    table = Table([TableFile(str(tmp_path / "t.parquet"), "parquet")], ["w"], tmp_path)
    assert list(table.values("w")) == words


def test_lengths_and_empty_cells_of_repeated_values(tmp_path: Path) -> None:
    indices = pa.array([0, 1, None, 2, 3, 0], pa.int8())
    array = pa.DictionaryArray.from_arrays(indices, pa.array(["ab", " ", None, ""]))
    path, table = tmp_path / "t.arrow", pa.table({"w": array})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    found = Table([TableFile(str(path), "arrow")], ["w"], tmp_path)
    assert np.array_equal(found.empty("w"), [False, True, True, True, True, False])
    found.check_texts("w")
    with (
        reading_within(ReadLimits(record_bytes=1)),
        pytest.raises(DataError, match=r"t\.arrow: row 0: column 'w' holds a text of 2 bytes"),
    ):
        found.check_texts("w")
    assert list(found.values("w")) == ["ab", " ", None, None, "", "ab"]
