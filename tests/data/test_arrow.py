import json
import multiprocessing
import os
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from renaissance import DataError
from renaissance.data.arrow import ArrowTable, CaptionIndex, is_binary

LISTS = pa.list_(pa.string())


def write(path: Path, batches: list[dict[str, Any]], schema: Any = None) -> Path:
    first = pa.RecordBatch.from_pydict(batches[0], schema=schema)
    with pa.ipc.new_file(path, first.schema) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_pydict(batch, schema=first.schema))
    return path


def located(index: CaptionIndex) -> list[tuple[int, int]]:
    return [index.locate(i) for i in range(len(index))]


def expected_places(rows: list[list[str] | None]) -> list[tuple[int, int]]:
    return [(row, place) for row, texts in enumerate(rows) for place in range(len(texts or []))]


def test_rows_of_several_files_and_batches_are_one_table(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.arrow", [{"n": [0, 1]}, {"n": []}, {"n": [2]}], pa.schema({"n": "i8"})
    )
    second = write(tmp_path / "b.arrow", [{"n": [3, 4]}], pa.schema({"n": "i8"}))
    table = ArrowTable([first, second], ["n"])
    assert len(table) == 5
    assert [table.value("n", row).as_py() for row in range(5)] == [0, 1, 2, 3, 4]
    assert table.source(2) == "a.arrow: row 2"
    assert table.source(4) == "b.arrow: row 1"
    for row in (-1, 5):
        with pytest.raises(IndexError, match=f"got {row}, expected 0 <= row < 5"):
            table.value("n", row)


def test_optional_columns_may_be_in_some_files_only(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.arrow", [{"n": [0], "id": ["x"]}]), tmp_path / "b.arrow"]
    write(paths[1], [{"n": [1]}])
    table = ArrowTable(paths, ["n"], ["id"])
    assert table.value("id", 0).as_py() == "x"
    assert table.value("id", 1) is None


def test_columns_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    rows = {"image": [bytes(1000)] * 1000, "caption": [["a", "b"]] * 1000}
    path = write(tmp_path / "a.arrow", [rows])
    before = pa.total_allocated_bytes()
    table = ArrowTable([path], ["image", "caption"])
    index = CaptionIndex(table.column("caption"))
    assert (len(table), len(index)) == (1000, 2000)
    assert pa.total_allocated_bytes() == before


def test_opening_leaves_the_rows_on_the_disk(tmp_path: Path) -> None:
    rows = {"image": [bytes(100_000)] * 40, "caption": [["a"]] * 40}
    path = write(tmp_path / "a.arrow", [rows] * 10)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = bytes_read()
    table = ArrowTable([path], ["image", "caption"])
    assert len(CaptionIndex(table.column("caption"))) == 400
    # On a file system in memory nothing is ever read.
    assert bytes_read() - before < path.stat().st_size / 10


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def test_too_many_open_files_are_no_damage(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.arrow", [{"n": [number]}]) for number in range(100)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be opened \(Too many open .* 'ulimit -n'"):
            ArrowTable(paths, ["n"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_stream_layout_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    batch = pa.RecordBatch.from_pydict({"n": [1, 2]})
    with pa.ipc.new_stream(path, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    table = ArrowTable([path], ["n"])
    assert [table.value("n", row).as_py() for row in range(4)] == [1, 2, 1, 2]
    whole = path.read_bytes()
    # Cut between two batches: only the end mark tells.
    path.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"a\.arrow: not a whole Arrow file .*no end mark"):
        ArrowTable([path], ["n"])


def test_tables_survive_pickling_and_fork(tmp_path: Path) -> None:
    table = ArrowTable([write(tmp_path / "a.arrow", [{"n": [5, 6]}])], ["n"])
    copy = pickle.loads(pickle.dumps(table))
    assert copy.value("n", 1).as_py() == 6
    assert len(pickle.dumps(table)) < 1000
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(second_value, (table,)) == 6


def second_value(table: ArrowTable) -> int:
    return int(table.value("n", 1).as_py())


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "coco_val.arrow", [{"n": [1]}])
    with pytest.raises(DataError) as error:
        ArrowTable([tmp_path / "coco_vall.arrow"], ["n"])
    assert str(error.value) == (
        f"{tmp_path}/coco_vall.arrow: no such file; expected an Arrow file. Nearest names in "
        f"{tmp_path}: coco_val.arrow. Set data.root to the folder that holds it, or prepare it "
        "with 'renaissance data prepare'"
    )
    with pytest.raises(DataError, match=r"Arrow files in .*: coco_val\.arrow"):
        ArrowTable([tmp_path / "x"], ["n"])
    with pytest.raises(DataError, match=r"There is no folder .*/nowhere either"):
        ArrowTable([tmp_path / "nowhere" / "a.arrow"], ["n"])


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -10, -1])
def test_files_cut_short_are_refused(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "a.arrow", [{"n": list(range(1000))}])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    with pytest.raises(DataError) as error:
        ArrowTable([path], ["n"])
    assert f"{path}: not a whole Arrow file of {path.stat().st_size} bytes" in str(error.value)
    assert "copy or prepare it again" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", "bb", "ccc"]),
        (pa.binary(), [b"a", b"bb", b"ccc"]),
        (pa.list_(pa.int8()), [[1], [1, 1], [1, 1, 1]]),
        (LISTS, [["x"], [""] * 2, [""] * 3]),
        (pa.list_(LISTS), [[["a"], ["b", "c"], ["d", "e", "f"]], [], []]),
    ],
)
def test_offsets_that_lead_outside_are_refused(tmp_path: Path, kind: Any, values: Any) -> None:
    path = write(tmp_path / "a.arrow", [{"x": values}] * 2, pa.schema({"x": kind}))
    whole = path.read_bytes()
    offsets = np.array([0, 1, 3, 6], np.int32).tobytes()
    start = whole.rindex(offsets)
    # Arrow itself refuses a wrong first or last one.
    for wrong in ([0, 5, 3, 6], [0, 2**31 - 1, 3, 6], [0, -7, 3, 6], [0, 1, 2**20, 6]):
        damaged = np.array(wrong, np.int32).tobytes()
        path.write_bytes(whole[:start] + damaged + whole[start + len(damaged) :])
        with pytest.raises(DataError) as error:
            ArrowTable([path], ["x"])
        assert str(error.value) == (
            f"{path}: rows 3 to 5: column 'x' is damaged (offsets do not ascend from 0 to at most "
            "6). Copy or prepare the file again"
        )
        # A column that nobody reads does no harm.
        assert len(ArrowTable([path], [])) == 6


def test_views_that_lead_outside_are_refused(tmp_path: Path) -> None:
    texts = [f"a text of more than 12 bytes: {row}" for row in range(4)]
    path = write(tmp_path / "a.arrow", [{"x": texts}], pa.schema({"x": pa.string_view()}))
    whole = path.read_bytes()
    # Length, first four bytes, index of a buffer, offset there.
    view = struct.pack("<i4sii", len(texts[2]), b"a te", 0, 2 * len(texts[2]))
    assert whole.count(view) == 1
    for place, wrong in ((8, 7), (12, 2**30)):
        damaged = view[:place] + struct.pack("<i", wrong) + view[place + 4 :]
        path.write_bytes(whole.replace(view, damaged))
        with pytest.raises(
            DataError, match=r"a\.arrow: rows 0 to 3: column 'x' is damaged \(View at"
        ):
            ArrowTable([path], ["x"])


def test_text_that_is_not_utf_8_is_named_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [{"text": ["ab", "cd"], "texts": [["ef"], ["gh"]]}])
    path.write_bytes(path.read_bytes().replace(b"cd", b"\xff\xfe").replace(b"gh", b"\xff\xfe"))
    table = ArrowTable([path], ["text", "texts"])
    for column in ("text", "texts"):
        table.value(column, 0)
        with pytest.raises(DataError, match=rf"a\.arrow: row 1: column '{column}' is damaged"):
            table.value(column, 1)


def test_a_file_that_is_cut_short_while_it_is_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [{"text": [["a" * 9000]] * 3}])
    table = ArrowTable([path], ["text"])
    index = CaptionIndex(table.column("text"), table.require_whole)
    size = path.stat().st_size
    os.truncate(path, 4096)
    expected = rf"a\.arrow: has 4,096 bytes; it had {size:,} when it was opened"
    # Reading it would end the process.
    with pytest.raises(DataError, match=expected):
        table.value("text", 2)
    with pytest.raises(DataError, match=expected):
        index.locate(2)


def test_a_file_of_another_size_than_its_manifest_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [{"n": [1]}])
    manifest = tmp_path / "mine_manifest.json"
    entry = {"size": path.stat().st_size, "sha256": "0"}
    manifest.write_text(json.dumps({"tables": {"a.arrow": entry}}))
    ArrowTable([path], ["n"])
    manifest.write_text(json.dumps({"tables": {"a.arrow": {**entry, "size": 1}}}))
    with pytest.raises(DataError, match=r"bytes; mine_manifest\.json says 1\. Copy or prepare"):
        ArrowTable([path], ["n"])
    # One that is no manifest vouches for nothing.
    for content in (
        "[",
        "[]",
        "null",
        "[" * 100_000,
        '{"tables": []}',
        '{"tables": {"a.arrow": 1}}',
    ):
        manifest.write_text(content)
        ArrowTable([path], ["n"])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_text("caption,image\n" * 100)
    with pytest.raises(DataError, match=r"a\.arrow: not a whole Arrow file"):
        ArrowTable([path], ["n"])


def test_missing_columns_are_named_with_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [{"picture": [b"x"], "text": ["y"]}])
    with pytest.raises(DataError) as error:
        ArrowTable([path], ["image", "text"])
    assert f"{path}: no column 'image'; it has picture, text; expected image, text." in str(
        error.value
    )


def test_wrong_types_are_named(tmp_path: Path) -> None:
    table = ArrowTable([write(tmp_path / "a.arrow", [{"image": ["x"]}])], ["image"])
    with pytest.raises(DataError, match=r"a\.arrow: column 'image' is string; expected binary"):
        table.check_type("image", is_binary, "binary")


def test_tables_without_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [{"n": []}], pa.schema({"n": "i8"}))
    with pytest.raises(DataError, match=r"a\.arrow: no rows; expected at least one"):
        ArrowTable([path], ["n"])


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_files_are_refused(tmp_path: Path, compression: str) -> None:
    batch = pa.RecordBatch.from_pydict({"n": list(range(1000))})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(tmp_path / "a.arrow", batch.schema, options=options) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=r"compressed; expected uncompressed.*compression=None"):
        ArrowTable([tmp_path / "a.arrow"], ["n"])


@pytest.mark.parametrize("lists", [LISTS, pa.large_list(pa.string()), pa.list_(pa.large_string())])
def test_captions_are_found_among_empty_rows_and_over_batches(lists: Any) -> None:
    generator = np.random.default_rng(0)
    rows = [["x"] * n for n in generator.integers(0, 4, size=300).tolist()]
    rows[0] = rows[-1] = rows[99] = rows[100] = []
    arrays = [pa.array(rows[a:b], lists) for a, b in ((0, 100), (100, 100), (100, 300))]
    assert located(CaptionIndex(arrays)) == expected_places(rows)


def test_slices_that_do_not_start_at_zero_are_indexed() -> None:
    rows = [["a", "b"], [], ["c"], ["d", "e", "f"], ["g"]]
    array = pa.array(rows, LISTS)
    assert located(CaptionIndex([array[1:4]])) == expected_places(rows[1:4])
    assert located(CaptionIndex([array[3:], array[:1]])) == expected_places([*rows[3:], rows[0]])


def test_null_rows_have_no_captions() -> None:
    rows = [["a"], None, ["b", "c"], None]
    assert located(CaptionIndex([pa.array(rows, LISTS)])) == expected_places(rows)
    # A null that spans two values.
    offsets, values = pa.array([0, 1, 3, 5], pa.int32()), pa.array(list("abcde"))
    hidden = pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, True, False]))
    assert located(CaptionIndex([hidden])) == [(0, 0), (2, 0), (2, 1)]


def test_a_string_column_is_one_caption_a_row() -> None:
    for kind in (pa.string(), pa.large_string()):
        arrays = [pa.array(["a", "b"], kind), pa.array([], kind), pa.array(["c", None], kind)]
        assert located(CaptionIndex(arrays)) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_captions_outside_are_refused() -> None:
    index = CaptionIndex([pa.array([["a", "b"]], LISTS)])
    for caption in (-1, 2):
        with pytest.raises(IndexError, match=f"got {caption}, expected 0 <= caption < 2"):
            index.locate(caption)


def test_the_index_refers_to_the_offsets_instead_of_copying_them() -> None:
    array = pa.array([["a", "b"]] * 10_000, LISTS)
    index = CaptionIndex([array])
    (offsets,) = index._offsets
    assert offsets is not None
    assert np.shares_memory(offsets, np.frombuffer(array.buffers()[1], np.int32))
