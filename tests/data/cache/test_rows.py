"""A cache of rows: whole rows only, whatever happens to its files and to who writes them."""

import os
import pickle
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from support.full_disk import full_disk
from torch import Tensor

from renaissance import DataError
from renaissance.data.cache.rows import INDEX, ROWS, RowCache
from renaissance.data.loader import PROCESSES

SHAPE = (3, 40, 40)
ROW_BYTES = 4800


def cache(folder: Path, max_bytes: int = 1 << 20) -> RowCache:
    return RowCache(folder / "rows", SHAPE, torch.uint8, max_bytes)


def row(level: int) -> Tensor:
    return torch.full(SHAPE, level, dtype=torch.uint8)


def rows(*levels: int) -> dict[bytes, Tensor]:
    return {bytes([level]) * 16: row(level) for level in levels}


def levels_in(kept: RowCache, *levels: int) -> list[int]:
    """Return those of these levels that are there, and right."""
    found = [(level, kept.get(bytes([level]) * 16)) for level in levels]
    assert all(state is None or torch.equal(state, row(level)) for level, state in found)
    return [level for level, state in found if state is not None]


def test_rows_are_there_for_others_and_later(tmp_path: Path) -> None:
    first, second = cache(tmp_path), cache(tmp_path)
    assert levels_in(first, 1) == []
    first.put(rows(1, 2))
    second.put(rows(2, 3))
    assert levels_in(first, 1, 2, 3, 4) == [1, 2, 3]
    assert levels_in(cache(tmp_path), 1, 2, 3, 4) == [1, 2, 3]
    assert len(first) == len(second) == 3
    assert (tmp_path / "rows" / ROWS).stat().st_size == 3 * ROW_BYTES
    # A process that is not forked gets a pickled cache.
    assert levels_in(pickle.loads(pickle.dumps(first)), 1, 2, 3) == [1, 2, 3]


def test_states_of_any_type_come_back_bit_by_bit(tmp_path: Path) -> None:
    states = torch.randn(4, 5, 6, dtype=torch.bfloat16)
    kept = RowCache(tmp_path, (5, 6), torch.bfloat16, 1 << 20)
    # Not contiguous.
    kept.put({b"a": states[1], b"b": states.mT.contiguous().mT[2]})
    assert torch.equal(kept.get(b"a"), states[1])
    assert torch.equal(kept.get(b"b"), states[2])


def test_what_exceeds_the_limit_is_not_kept(tmp_path: Path) -> None:
    kept = cache(tmp_path, max_bytes=2 * ROW_BYTES + 7)
    kept.put(rows(1, 2, 3))
    kept.put(rows(4))
    assert levels_in(kept, 1, 2, 3, 4) == [1, 2]
    assert (tmp_path / "rows" / ROWS).stat().st_size == 2 * ROW_BYTES


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damaged_rows_are_missing_and_can_be_made_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache(tmp_path).put(rows(1, 2, 3))
    file = tmp_path / "rows" / ROWS
    content = bytearray(file.read_bytes())
    content[ROW_BYTES + 17] ^= 4
    kept = {"bit": bytes(content), "cut": content[: 2 * ROW_BYTES - 1], "gone": b""}[damage]
    file.write_bytes(kept)
    again = cache(tmp_path)
    left = {"bit": [1, 3], "cut": [1], "gone": []}[damage]
    assert levels_in(again, 1, 2, 3) == left
    assert capsys.readouterr().err == (
        f"cache: {file}: damaged; its damaged rows are made again\n"
    )  # once
    again.put(rows(*{1, 2, 3}.difference(left)))
    assert levels_in(cache(tmp_path), 1, 2, 3) == [1, 2, 3]
    assert file.stat().st_size == 3 * ROW_BYTES


@pytest.mark.parametrize("is_open", [False, True])
def test_a_damaged_index_is_made_again(
    tmp_path: Path, is_open: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = cache(tmp_path)
    kept.put(rows(*range(200)))
    index = tmp_path / "rows" / INDEX
    size = index.stat().st_size
    index.write_bytes(os.urandom(size))
    if not is_open:
        kept = cache(tmp_path)
    assert levels_in(kept, 1, 2) == []
    assert f"cache: {index}: damaged; it is made again from the images" in capsys.readouterr().err
    kept.put(rows(2, 3))
    assert levels_in(kept, 1, 2, 3) == levels_in(cache(tmp_path), 1, 2, 3) == [2, 3]


def test_a_full_disk_ends_the_writing_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = cache(tmp_path)
    kept.put(rows(1))
    with full_disk(2 * ROW_BYTES - 100):
        kept.put(rows(2))
        kept.put(rows(3))
    message = capsys.readouterr().err
    assert message.startswith(f"cache: {tmp_path / 'rows'}: no further images are kept (")
    assert message.count("\n") == 1
    assert message.endswith(
        "The run goes on without. Free space, or name another folder (data.cache_folder)\n"
    )
    assert levels_in(kept, 1, 2, 3) == [1]
    later = cache(tmp_path)
    later.put(rows(2, 3))
    assert levels_in(later, 1, 2, 3) == [1, 2, 3]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(DataError) as caught:
        cache(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'rows'}: cannot keep images there (")
    assert str(caught.value).endswith(
        "expected a folder that can be written. Name another one (data.cache_folder), or set "
        "data.cache = 'none'"
    )


def write_for_ever(folder: Path, started: Connection) -> None:
    # As in a loader's workers: the threads of the process that was forked are not there.
    torch.set_num_threads(1)
    kept = RowCache(folder, (3, 200, 200), torch.uint8, 1 << 30)
    started.send(True)
    while True:
        for start in range(0, 200, 10):
            some = range(start, start + 10)
            kept.put({bytes([n]) * 16: torch.full(kept.shape, n, dtype=torch.uint8) for n in some})


def test_writers_that_are_killed_leave_whole_rows(tmp_path: Path) -> None:
    """Two at once, ten times; then, every row that the index has is right."""
    for turn in range(10):
        ours, theirs = PROCESSES.Pipe()
        processes = [
            PROCESSES.Process(target=write_for_ever, args=(tmp_path, theirs)) for _ in range(2)
        ]
        for process in processes:
            process.start()
            assert ours.recv()
        time.sleep(0.02 + 0.01 * turn)
        for process in processes:
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
    kept = RowCache(tmp_path, (3, 200, 200), torch.uint8, 1 << 30)
    found = {level: kept.get(bytes([level]) * 16) for level in range(200)}
    there = {level: state for level, state in found.items() if state is not None}
    assert len(there) == len(kept) >= 10
    assert all((state == level).all() for level, state in there.items())
    kept.put({b"x" * 16: torch.zeros(3, 200, 200, dtype=torch.uint8)})
    assert kept.get(b"x" * 16) is not None


def test_a_forked_process_opens_the_files_again(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.put(rows(1))
    child = os.fork()
    if child == 0:
        kept.put(rows(2))
        os._exit(0 if levels_in(kept, 1, 2) == [1, 2] else 1)
    assert os.waitpid(child, 0)[1] == 0
    kept.put(rows(3))
    assert levels_in(kept, 1, 2, 3) == [1, 2, 3]
