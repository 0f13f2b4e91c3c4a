"""A step that does not end ends the rank, with what it waits for."""

import os
import threading
import time

import pytest

from renaissance.engine import watch
from renaissance.engine.watch import StepWatch


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
        with running.step(2), running.paused():
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
