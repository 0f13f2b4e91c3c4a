"""The loader: what workers make arrives unchanged, and nothing hangs, whoever dies."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.running import environment

from renaissance import ObjectiveBatch, Pairs
from renaissance.data import loader as loading
from renaissance.data.loader import MicroBatchLoader, StoppedWaitingError
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.order import SampleKeys
from renaissance.errors import DataError, RunError

CPU = torch.device("cpu")
TENSORS = {
    "bfloat16": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "empty": torch.empty((0, 4), dtype=torch.float16),
}


class Making:
    """Stands in for a collator: calls a function with the first index."""

    def __init__(self, act: Callable[[int], None] = lambda index: None) -> None:
        self._act = act

    def __getitem__(self, keys: SampleKeys) -> MicroBatch:
        index = keys[0][1]
        self._act(index)
        pairs = Pairs(torch.tensor([index]), torch.tensor([0]))
        return MicroBatch(
            indices=torch.tensor([index]),
            input_ids=None,
            attention_mask=None,
            pixel_values=torch.full((1, 3, 200, 200), index % 256, dtype=torch.uint8),
            objectives={"some": ObjectiveBatch(1, pairs, TENSORS, ("a", index))},
            bad_samples={7: "a message"},
        )


def loader(collator: Any, length: int, **more: Any) -> MicroBatchLoader:
    return MicroBatchLoader(collator, [[(0, i)] for i in range(length)], 3, CPU, **more)


def test_what_workers_make_arrives_unchanged_and_in_order() -> None:
    batches = list(loader(Making(), 50))
    assert [int(batch.indices) for batch in batches] == list(range(50))
    for index, batch in enumerate(batches):
        assert batch.pixel_values is not None
        assert batch.pixel_values.dtype == torch.uint8
        assert batch.pixel_values.unique().tolist() == [index]
        made = batch.objectives["some"]
        assert made.identifiers == ("a", index)
        assert made.pairs is not None
        assert made.pairs.image_types is None
        for name, tensor in TENSORS.items():
            assert made.tensors[name].dtype == tensor.dtype
            assert torch.equal(made.tensors[name], tensor)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("num_bytes", "num_workers", "expected"),
    [(1, 3, 12), (2**28, 3, 8), (2**30, 3, 3), (0, 1, 4), (2**40, 1, 1)],
)
def test_what_is_made_ahead_is_bounded_in_bytes(
    num_bytes: int, num_workers: int, expected: int
) -> None:
    assert loading._num_ahead(num_bytes, num_workers) == expected


def test_a_loader_keeps_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker makes a micro-batch before what it has been asked for earlier is taken."""
    made = multiprocessing.Value("i", 0)

    def count(index: int) -> None:
        with made.get_lock():
            made.value += 1

    # A micro-batch has 120,000 bytes of pixels.
    monkeypatch.setattr(loading, "MAX_BYTES_AHEAD", 500_000)
    with contextlib.closing(loader(Making(count), 50)._made()) as batches:
        next(batches)
        # One is taken, some wait in the main process, and the rest is what the bound allows.
        expected = 1 + loading.NUM_READY + 500_000 // 120_000
        deadline = time.monotonic() + 10
        while made.value < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made.value == expected
        assert len(list(batches)) == 49


def fail(index: int) -> None:
    if index == 5:
        raise DataError("record 5: damaged")
    if index == 9:
        raise ValueError("a defect")


def test_a_failure_is_raised_where_it_would_be_used_with_its_type() -> None:
    batches = iter(loader(Making(fail), 20))
    assert [int(next(batches).indices) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="record 5: damaged"):
        next(batches)
    with pytest.raises(RunError, match="a defect") as caught:
        list(MicroBatchLoader(Making(fail), [[(0, 9)]], 1, CPU))  # type: ignore[arg-type]
    assert "in fail" in str(caught.value.__cause__)


def killed(index: int) -> None:
    if index == 4:
        os.kill(os.getpid(), signal.SIGKILL)


def exits(index: int) -> None:
    if index == 4:
        os._exit(3)


@pytest.mark.parametrize(
    ("die", "how"),
    [
        (killed, "was killed by SIGKILL, as the system does when memory runs out"),
        (exits, "ended with exit code 3"),
    ],
)
def test_a_worker_that_dies_is_named_and_not_awaited(die: Callable[[int], None], how: str) -> None:
    with pytest.raises(RunError, match=rf"a data worker {how}; use fewer data\.num_workers"):
        list(loader(Making(die), 20))
    assert multiprocessing.active_children() == []


def hang(index: int) -> None:
    if index == 2:
        time.sleep(600)


def test_a_read_that_hangs_does_not_outlive_a_request_to_stop() -> None:
    polls = iter([False, False, True])
    batches = iter(loader(Making(hang), 20, is_stopping=lambda: next(polls)))
    assert [int(next(batches).indices) for _ in range(2)] == [0, 1]
    with pytest.raises(StoppedWaitingError):
        next(batches)
    assert multiprocessing.active_children() == []


def test_workers_that_hang_end_with_the_loop_that_reads() -> None:
    batches = iter(loader(Making(hang), 20))
    next(batches)
    assert len(multiprocessing.active_children()) == 3
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def in_a_process(code: str) -> "subprocess.Popen[str]":
    text = "from data.test_loader import *\nimport resource\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_no_worker_outlives_a_main_process_that_was_killed() -> None:
    process = in_a_process(
        "batches = iter(loader(Making(hang), 20))\nnext(batches)\n"
        "print(*[c.pid for c in multiprocessing.active_children()], flush=True)\ntime.sleep(600)"
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while left := [pid for pid in workers if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize(
    "end", ["keep(batches)", "keep(batches)\nraise ValueError('a cell of a notebook fails')"]
)
def test_a_loop_that_nobody_closed_does_not_keep_the_process_from_ending(end: str) -> None:
    process = in_a_process(
        "import builtins\ndef keep(kept):\n    builtins.kept = kept\n"
        "batches = iter(loader(Making(hang), 20))\nprint(len(next(batches).indices))\n" + end
    )
    try:
        assert process.communicate(timeout=120)[0].startswith("1\n")
    finally:
        process.kill()


def is_running(pid: int) -> bool:
    try:
        # A process that has ended but that nobody has waited for is a zombie.
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_few_open_files_are_enough_or_named() -> None:
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))\n"
    # Tensors of 50 batches take no open file each.
    some = in_a_process(limit.format(56) + "print(len(list(loader(Making(), 50))))")
    assert some.communicate(timeout=60)[0] == "50\n"
    few = in_a_process(
        "used = len(os.listdir('/proc/self/fd'))\n"
        + limit.format("used + 4")
        + "try:\n    list(loader(Making(), 50))\nexcept RunError as error:\n    print(error)"
    )
    assert few.communicate(timeout=60)[0].startswith("data.num_workers = 3: worker ")
