"""Metrics of a whole split can be stopped, on all ranks at once."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.running import run_here, write_spec
from torch import Tensor

from renaissance import DataError, SplitEvaluator
from renaissance.builtin.objectives.itm import ITM
from renaissance.data.loader import StoppedWaitingError
from renaissance.engine.distributed import Ranks
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.whole_split import WholeSplit
from renaissance.errors import PeerError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heeded_while_a_whole_split_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def measure(self: ITM, split: SplitEvaluator) -> dict[str, float]:
        split.encode_texts([0])
        if not (tmp_path / "whole").exists():
            os.kill(os.getpid(), number)
            for _ in range(10**9):
                split.encode_images([0, 1])
        return {"whole": 1.0}

    monkeypatch.setattr(ITM, "evaluate_split", measure)
    spec = write_spec(tmp_path)
    assert run_here(spec, tmp_path) == 128 + number
    run = RunFolder(tmp_path / "tiny")
    assert run.checkpoints() == [run.checkpoint(5)]
    (tmp_path / "whole").mkdir()
    assert run_here(spec, tmp_path) == 0
    assert run_here(spec, tmp_path / "whole") == 0
    assert run.metrics.read_text() == (tmp_path / "whole/tiny/metrics.jsonl").read_text()


class Exchange:
    """Lets two threads exchange values, in step."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=10)
        self._values: dict[int, Any] = {}

    def __call__(self, rank: int, value: object) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = [self._values[rank] for rank in range(2)]
        self._barrier.wait()
        return values


class Pair(Ranks):
    """One of two ranks."""

    def __init__(self, rank: int, exchange: Exchange) -> None:
        self.rank, self.world_size, self.device = rank, 2, torch.device("cpu")
        self._exchange = exchange

    def sum(self, values: Any) -> list[float]:
        return [sum(each) for each in zip(*self._exchange(self.rank, values), strict=True)]

    def gather_text(self, text: str) -> list[str]:
        return self._exchange(self.rank, text)

    def gather_rows(self, rows: Tensor) -> Tensor:
        return torch.cat(self._exchange(self.rank, rows))


def outcomes(
    measure: Callable[[WholeSplit], object], is_stopping: Callable[[int], bool]
) -> list[Any]:
    """Let two ranks measure a split; return what each of them gets or raises."""
    exchange = Exchange()
    objective: Any = SimpleNamespace(evaluate_split=measure)
    spec: Any = SimpleNamespace(
        evaluate=SimpleNamespace(micro_batch_size=4), train=SimpleNamespace(precision="fp32")
    )

    def work(rank: int) -> object:
        nothing: Any = None
        split = WholeSplit(
            nothing, nothing, "x", spec, Pair(rank, exchange), False, lambda: is_stopping(rank)
        )
        try:
            return split.metrics(objective)
        except Exception as error:
            return error
        finally:
            # The ranks are in step again.
            assert exchange(rank, "next") == ["next", "next"]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, range(2)))


def measure(split: WholeSplit) -> object:
    """As retrieval does: each rank has its own number of steps between gathers."""
    rows = torch.zeros(1)
    for _ in range(3):
        for _ in split.progress([1] * (5 + 20 * split.rank), 25, "pairs"):
            pass
        rows = split.gather(rows + split.rank)
    return {"sum": float(rows.sum())}


def test_ranks_that_are_not_stopped_measure() -> None:
    assert outcomes(measure, lambda rank: False) == [{"sum": 12.0}] * 2


@pytest.mark.parametrize("stopped", [0, 1])
@pytest.mark.parametrize("after", [0, 1, 7, 30, 47])
def test_one_rank_that_is_stopped_stops_both(stopped: int, after: int) -> None:
    num_asked = [0, 0]

    def is_stopping(rank: int) -> bool:
        num_asked[rank] += 1
        return rank == stopped and num_asked[rank] > after

    found = outcomes(measure, is_stopping)
    expected = StoppedWaitingError if after < num_asked[stopped] else dict
    assert [type(each) for each in found] == [expected] * 2


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_is_not_waited_for(failing: int) -> None:
    def fail(split: WholeSplit) -> object:
        if split.rank == failing:
            raise DataError("photo.jpg: cut short")
        return measure(split)

    main, other = outcomes(fail, lambda rank: False)
    assert "photo.jpg: cut short" in str(main)
    assert isinstance(main, DataError) == (failing == 0)
    assert isinstance(other, PeerError)
