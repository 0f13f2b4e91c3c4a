"""What is saved, evaluated and marked as the best after a step, in which order."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.running import metrics, run_here, write_spec

from renaissance.engine import after_step
from renaissance.engine.checkpoint import TrainState, save_checkpoint
from renaissance.engine.evaluate import SplitResult
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.signals import StopRequest

NAN = float("nan")


def measure(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """Let the evaluations of a run find these losses."""
    left = iter(losses)

    def evaluate(*arguments: Any) -> SplitResult:
        return SplitResult({"loss": next(left)}, [], {}, 0)

    monkeypatch.setattr(after_step, "evaluate", evaluate)


def train(folder: Path, *settings: str, is_stopped: bool = False) -> RunFolder:
    """Evaluate after each step; to the end or until SIGTERM."""
    settings = ("evaluate.every_steps=1", "train.log_every=1", *settings)
    exit_code = run_here(write_spec(folder), folder, *settings)
    assert exit_code == (128 + signal.SIGTERM if is_stopped else 0)
    return RunFolder(folder / "tiny")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([NAN, 2.0, NAN], 2),
        ([2.0, NAN, float("inf"), float("-inf")], 1),
        ([NAN, NAN], None),
    ],
)
def test_a_metric_that_is_not_finite_is_never_the_best(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    losses: list[float],
    best: int | None,
) -> None:
    measure(monkeypatch, losses)
    settings = [f"train.max_steps={len(losses)}", "checkpoint.keep_last=9"]
    run = train(tmp_path, *settings, f"checkpoint.best_mode={mode}")
    assert run.best == (None if best is None else run.checkpoint(best))


def test_the_figures_of_a_run_are_valid_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, [NAN, float("inf")])
    run = train(tmp_path, "train.max_steps=2")
    measured = [line for line in metrics(run.path) if line["split"] == "validate"]
    assert [line["loss"] for line in measured] == [None, None]

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    for file in (run.metrics, run.checkpoint(2) / "state.json"):
        for line in file.read_text().splitlines() if file == run.metrics else [file.read_text()]:
            json.loads(line, parse_constant=refuse)


def test_a_signal_after_a_save_does_not_save_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    def save(folder: Path, model: Any, optimizer: Any, state: TrainState, text: str) -> Path:
        saved.append(state.step)
        # Heeded before the next step.
        os.kill(os.getpid(), signal.SIGTERM)
        return save_checkpoint(folder, model, optimizer, state, text)

    monkeypatch.setattr(after_step, "save_checkpoint", save)
    settings = ["data.validate=[]", "checkpoint.every_steps=2", "train.max_steps=6"]
    run = train(tmp_path, *settings, is_stopped=True)
    assert saved == [2]
    assert run.checkpoints() == [run.checkpoint(2)]
    # Nor does the same signal before a step: what the run resumes from is there, and a run that has
    # not begun starts as well without.
    length = len(StopRequest().one_hot())
    requested = [float(number == signal.SIGTERM) for number in range(length)]
    monkeypatch.setattr(StopRequest, "one_hot", lambda self: requested)
    train(tmp_path, *settings, is_stopped=True)
    assert train(tmp_path / "fresh", *settings, is_stopped=True).checkpoints() == []
    assert saved == [2]
