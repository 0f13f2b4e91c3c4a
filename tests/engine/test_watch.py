"""A step that does not end ends the rank, with what it waits for."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.running import run_here, write_spec

from renaissance.data.collate import Collator
from renaissance.engine import saving, watch
from renaissance.engine.watch import Pulse, StepWatch


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set where the process would end."""
    event = threading.Event()

    def leave(code: int) -> None:
        assert code == 1
        event.set()

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.0)
    return event


@pytest.mark.parametrize(("nodes", "name"), [("2", "rank 1"), ("1", f"rank 1 ({os.uname()[1]})")])
def test_a_step_that_hangs_is_reported_with_rank_node_and_stack(
    left: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nodes: str,
    name: str,
) -> None:
    launch = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": nodes}
    for key, value in {**launch, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)

    def a_call_that_hangs() -> None:
        assert left.wait(30)

    with StepWatch(1.2) as running:
        with running.step(1):
            pass
        with running.step(2):
            a_call_that_hangs()
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {name}: step 2 has not ended in 1 s; another rank or the ")
    assert "raise train.step_timeout\nIt waits here:\n" in printed
    assert "in a_call_that_hangs\n    assert left.wait(30)\n" in printed


def test_between_steps_and_in_the_first_nothing_is_reported(left: threading.Event) -> None:
    """An evaluation takes as long as it takes."""
    with StepWatch(0.3) as running:
        with running.step(1):
            time.sleep(0.7)
        with running.step(2), running.going_on("it has not gone on"):
            time.sleep(0.7)
        time.sleep(0.7)
    assert not left.is_set()


def test_the_limit_follows_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def limits(timeout: float | None, seconds: float) -> tuple[float, float]:
        nonlocal now
        running = StepWatch(timeout)
        first = running.limit()
        # Half of the steps, less one, are much slower.
        for index in range(9):
            with running.step(index + 1):
                now += seconds if index < 5 else 100 * seconds
        return first, running.limit()

    assert limits(None, 0.1) == (1800, 600)
    assert limits(None, 30) == (1800, pytest.approx(1500))
    assert limits(7.5, 30) == (1800, 7.5)
    assert limits(4000, 30) == (4000, 4000)


def test_what_goes_on_may_take_any_time(
    left: threading.Event, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "LEAST_SECONDS", 1.1)
    with StepWatch(0.3) as running:
        with running.step(1):
            pass
        with running.going_on("the work has not gone on") as pulse:
            for _ in range(8):
                time.sleep(0.2)
                pulse.beat()
            # Other ranks are awaited.
            pulse.rest()
            time.sleep(1.8)
            assert not left.is_set()
            pulse.beat()
            assert left.wait(10)
    assert capsys.readouterr().err.startswith("error: rank 0: the work has not gone on in 1 s; ")


def test_a_thread_that_hangs_is_shown(
    left: threading.Event, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "LEAST_SECONDS", 0.6)

    def a_write_that_hangs() -> None:
        assert left.wait(30)

    with StepWatch(0.3) as running, ThreadPoolExecutor(1, "checkpoint") as thread:
        with running.step(1):
            pass
        with running.going_on("it has not been written", "checkpoint", more_seconds=0.5):
            thread.submit(a_write_that_hangs).result()
    printed = capsys.readouterr().err
    assert printed.startswith("error: rank 0: it has not been written in 1 s; another rank or the ")
    assert "in a_write_that_hangs\n    assert left.wait(30)\n" in printed


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give what is not a step 3 seconds. A step may take longer than that on a busy machine."""

    def pulse(fault: str, limit: float, thread: str = "MainThread") -> Pulse:
        return Pulse(fault, limit if fault.startswith("step") else 3.0, thread)

    monkeypatch.setattr(watch, "Pulse", pulse)


RUN = ("train.max_steps=4", "data.num_workers=0")


@pytest.mark.usefixtures("short")
def test_an_evaluation_that_hangs_ends_the_run(
    tmp_path: Path,
    left: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated = 0
    read = Collator.__getitem__

    def hang(self: Collator, keys: Any) -> Any:
        nonlocal evaluated
        # Of 21 samples in micro-batches of 4, in the second evaluation.
        evaluated += len(self.datasets) == 21 and len(keys) == 4
        if evaluated == 8 and not left.is_set():
            assert left.wait(30)
        return read(self, keys)

    monkeypatch.setattr(Collator, "__getitem__", hang)
    settings = ("evaluate.every_steps=2", "evaluate.micro_batch_size=4")
    assert run_here(write_spec(tmp_path), tmp_path, *RUN, *settings) == 0
    printed = capsys.readouterr().err
    assert "error: rank 0: the evaluation of step 4 has not gone on in 3 s; another rank" in printed
    assert "in hang\n    assert left.wait(30)\n" in printed


@pytest.mark.usefixtures("short")
def test_a_checkpoint_that_is_never_written_ends_the_run(
    tmp_path: Path,
    left: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = saving.write_snapshot

    def hang(folder: Path, snapshot: Any) -> Path:
        if folder.name == "step-00000002":
            assert left.wait(30)
        return write(folder, snapshot)

    monkeypatch.setattr(saving, "write_snapshot", hang)
    settings = ("checkpoint.every_steps=2", "evaluate.every_steps=100")
    assert run_here(write_spec(tmp_path), tmp_path, *RUN, *settings) == 0
    printed = capsys.readouterr().err
    assert "error: rank 0: the checkpoint has not been written in 3 s; another rank or" in printed
    assert "in hang\n    assert left.wait(30)\n" in printed
