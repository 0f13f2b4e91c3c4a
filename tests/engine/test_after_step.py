"""What is saved, evaluated and marked as the best after a step, in which order."""

import itertools
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from support.full_disk import full_disk
from support.kills import is_killed
from support.running import TINY, metrics, run_here, write_spec

from renaissance import Monitor, RunInfo
from renaissance.builtin.datasets.shapes import Shapes
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.builtin.objectives.mlm import MLM
from renaissance.engine import after_step, saving
from renaissance.engine.after_step import AfterStep
from renaissance.engine.checkpoint import (
    TrainState,
    load_checkpoint,
    take_snapshot,
)
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import SplitResult
from renaissance.engine.loop import Loop
from renaissance.engine.manifest import is_checkpoint
from renaissance.engine.observers import Observers
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.saving import Saving
from renaissance.engine.signals import StopRequest
from renaissance.engine.snapshot import Snapshot
from renaissance.engine.writing import write_snapshot
from renaissance.errors import CheckpointError, DataError, SpecError
from renaissance.plugins.loading import new_manager
from renaissance.testing.made_up_run import make_run_info

NAN = float("nan")


def measure(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """Let the evaluations of a run find these losses."""
    left = iter(losses)

    def evaluate(*arguments: Any, **more: Any) -> SplitResult:
        return SplitResult({"loss": next(left)}, [], {}, 0, 1, {})

    monkeypatch.setattr(after_step, "evaluate", evaluate)


def train(folder: Path, *settings: str, is_stopped: bool = False, text: str = TINY) -> RunFolder:
    """Evaluate after each step; to the end or until SIGTERM."""
    settings = ("evaluate.every_steps=1", "train.log_every=1", *settings)
    exit_code = run_here(write_spec(folder, text), folder, *settings)
    assert exit_code == (128 + signal.SIGTERM if is_stopped else 0)
    return RunFolder(folder / "tiny")


@pytest.mark.parametrize("stops", [(), (1,), (3,), (2, 3)])
def test_patience_ends_the_run_however_often_it_was_interrupted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stops: Sequence[int],
) -> None:
    measure(monkeypatch, [3.0, 2.0, NAN, 2.5, 1.0, 0.5])
    for step in (*stops, 6):
        folder = train(tmp_path, "train.patience=2", f"train.max_steps={step}")
    assert folder.last is not None
    assert folder.last.name == "step-00000004"
    assert folder.find(prefer_best=True).resolve().name == "step-00000002"
    message = "step 4: loss was not better in 2 evaluations in a row (train.patience); training"
    assert message in capsys.readouterr().out
    # Started again, it has nothing to do.
    train(tmp_path, "train.patience=2", "train.max_steps=6")
    assert folder.last.name == "step-00000004"
    assert message in capsys.readouterr().out


def test_patience_without_evaluations_is_refused(tmp_path: Path) -> None:
    text = TINY[: TINY.index("[[data.validate]]")] + TINY[TINY.index("[[objectives]]") :]
    with pytest.raises(SpecError) as caught:
        train(tmp_path / "run", "train.patience=2", text=text)
    assert str(caught.value) == (
        "command line: train.patience: counts evaluations, but there are none; add a table "
        "[[data.validate]], or remove this key"
    )


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

    def save(model: Any, optimizer: Any, state: TrainState, *more: Any) -> Snapshot:
        saved.append(state.step)
        # Heeded before the next step.
        os.kill(os.getpid(), signal.SIGTERM)
        return take_snapshot(model, optimizer, state, *more)

    monkeypatch.setattr(saving, "take_snapshot", save)
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


def write_slowly(monkeypatch: pytest.MonkeyPatch, until: int) -> list[tuple[int, int, bool]]:
    """Let no checkpoint be written before a step is done.

    Returns:
        Where reports of saved checkpoints go: its step, the step that was done by then, and whether
        it is there.
    """
    is_done, steps = threading.Event(), [0]
    reports: list[tuple[int, int, bool]] = []
    step = Loop._step

    def count(self: Loop, *arguments: Any) -> Any:
        result = step(self, *arguments)
        steps[0] = self.state.step + 1
        if steps[0] >= until:
            is_done.set()
        return result

    def write(folder: Path, snapshot: Snapshot) -> Path:
        assert is_done.wait(60)
        return write_snapshot(folder, snapshot)

    def report(self: Observers, run: RunInfo, step: int, folder: Path) -> None:
        reports.append((step, steps[0], is_checkpoint(folder)))

    monkeypatch.setattr(Loop, "_step", count)
    monkeypatch.setattr(saving, "write_snapshot", write)
    monkeypatch.setattr(Observers, "checkpoint_saved", report)
    return reports


BESIDE = ["data.validate=[]", "checkpoint.every_steps=4", "checkpoint.keep_last=9"]


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", *BESIDE, "train.max_steps=8")
    reports = write_slowly(monkeypatch, until=7)
    run = train(tmp_path, *BESIDE, "train.max_steps=8")
    # Told of the fourth step's checkpoint before the next save at the latest, and once it is there.
    assert [report[0] for report in reports] == [4, 8]
    assert reports[0][1] in (7, 8)
    assert all(is_there for *_, is_there in reports)
    for step in (4, 8):
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            files = [each.checkpoint(step) / name for each in (run, whole)]
            assert files[0].read_bytes() == files[1].read_bytes()
    assert run.metrics.read_text() == whole.metrics.read_text()


def test_a_signal_waits_for_the_checkpoint_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = write_slowly(monkeypatch, until=6)
    step = Loop._step

    def stop(self: Loop, *arguments: Any) -> Any:
        if self.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(Loop, "_step", stop)
    run = train(tmp_path, *BESIDE, "train.max_steps=8", is_stopped=True)
    assert reports == [(4, 6, True), (6, 6, True)]
    monkeypatch.undo()
    train(tmp_path, *BESIDE, "train.max_steps=8")
    whole = train(tmp_path / "whole", *BESIDE, "train.max_steps=8")
    assert run.metrics.read_text() == whole.metrics.read_text()
    files = [each.checkpoint(8) / "model.safetensors" for each in (run, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_checkpoint_that_is_being_written_outlives_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = write_slowly(monkeypatch, until=5)
    step = Loop._step

    def fail(self: Loop, *arguments: Any) -> Any:
        if self.state.step == 5:
            raise DataError("photo.jpg: cut short")
        return step(self, *arguments)

    monkeypatch.setattr(Loop, "_step", fail)
    with pytest.raises(DataError, match=r"photo\.jpg: cut short"):
        train(tmp_path, *BESIDE, "train.max_steps=8")
    assert reports == [(4, 5, True)]


def test_a_failure_beside_training_is_told_or_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error: Exception = CheckpointError("cannot write the checkpoint: no space")

    def write(folder: Path, snapshot: Snapshot) -> Path:
        if folder.name == "step-00000004":
            raise error
        return write_snapshot(folder, snapshot)

    monkeypatch.setattr(saving, "write_snapshot", write)
    run = train(tmp_path / "full", *BESIDE, "train.max_steps=8")
    assert f"warning: {error}; the run goes on, and saves again" in capsys.readouterr().out
    assert run.checkpoints() == [run.checkpoint(8)]
    error = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        train(tmp_path / "defect", *BESIDE, "train.max_steps=8")
    assert RunFolder(tmp_path / "defect/tiny").checkpoints() == []


@pytest.mark.parametrize("move", [shutil.rmtree, lambda path: path.rename(path.parent / "moved")])
def test_a_run_folder_that_is_gone_is_made_again_with_all_that_it_needs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    move: Callable[[Path], object],
) -> None:
    step = Loop._step

    def step_and_move(self: Loop, *arguments: Any) -> Any:
        if self.state.step == 3:
            self.after_step.saving.settle()
            move(tmp_path / "tiny")
        return step(self, *arguments)

    monkeypatch.setattr(Loop, "_step", step_and_move)
    settings = ["evaluate.every_steps=2", "train.max_steps=6"]
    run = train(tmp_path, *settings)
    assert f"warning: {run.path} was moved or deleted; it is made again" in capsys.readouterr().out
    monkeypatch.undo()
    # Another process needs spec, tokenizer and configs.
    whole = train(tmp_path / "whole", *settings)
    for part in ("spec.toml", "tokenizer/tokenizer.json", "encoders/text_encoder/config.json"):
        assert (run.path / part).is_file()
    files = [each.checkpoint(6) / "model.safetensors" for each in (run, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert run.last == run.checkpoint(6)


def fill_disk(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """Let the disk be full after these steps."""
    call = AfterStep.__call__

    def call_on_full_disk(self: AfterStep, state: TrainState, *arguments: Any) -> None:
        with full_disk() if first <= state.step <= last else nullcontext():
            call(self, state, *arguments)

    monkeypatch.setattr(AfterStep, "__call__", call_on_full_disk)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["train.max_steps=8", "checkpoint.keep_last=9", "evaluate.every_steps=2"]
    whole = train(tmp_path / "whole", *settings)
    fill_disk(monkeypatch, 3, 6)
    capsys.readouterr()
    run = train(tmp_path / "full", *settings)
    printed = capsys.readouterr().out
    for step in (4, 6):
        assert f"warning: {run.checkpoint(step)}: cannot write the checkpoint: " in printed
    assert f"warning: {run.metrics}: " in printed
    assert run.metrics.read_text() == whole.metrics.read_text()
    assert [path.name for path in run.checkpoints()] == ["step-00000002", "step-00000008"]
    files = [each.checkpoint(8) / "model.safetensors" for each in (run, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The best among those that were saved.
    losses = {m["step"]: m["loss"] for m in metrics(run.path) if m["split"] == "validate"}
    assert run.best == run.checkpoint(min((2, 8), key=losses.__getitem__))
    assert not list((run.path / "checkpoints").glob("*.partial"))


def test_a_disk_that_stays_full_is_an_error_after_the_last_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["train.max_steps=4", "evaluate.every_steps=2"]
    fill_disk(monkeypatch, 3, 4)
    with pytest.raises(CheckpointError, match=r"step-00000004: cannot write the checkpoint: "):
        train(tmp_path, *settings)
    assert "step 4/4  validate  loss" in capsys.readouterr().out
    run = RunFolder(tmp_path / "tiny")
    assert run.checkpoints() == [run.checkpoint(2)] == [run.best]
    monkeypatch.undo()
    train(tmp_path, *settings)
    assert run.metrics.read_text() == train(tmp_path / "whole", *settings).metrics.read_text()


def test_the_best_is_marked_and_recorded_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(monkeypatch, [1.0, 2.0, 3.0])
    mark = RunFolder.mark_best

    def fail_first(self: RunFolder, step: int) -> None:
        if step == 1:
            raise OSError(28, "No space left on device", "best")
        mark(self, step)

    monkeypatch.setattr(RunFolder, "mark_best", fail_first)
    run = train(tmp_path, "train.max_steps=3", "checkpoint.keep_last=9")
    assert "No space left on device: 'best'; the run goes on" in capsys.readouterr().out
    # A step that could not be marked is not the one to beat.
    assert run.best == run.checkpoint(2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("log_every", [3, 7])
def test_the_log_of_a_run_that_was_stopped_is_that_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, log_every: int
) -> None:
    spec = write_spec(tmp_path)
    settings = [f"train.log_every={log_every}", "evaluate.every_steps=4"]
    assert run_here(spec, tmp_path / "whole", *settings) == 0
    step = Loop._step
    # Once right after the last stop, twice in one window, once where a save is due.
    stops = [1, 2, 4, 6, 8, 9]

    def stop(self: Loop, *arguments: Any) -> Any:
        if self.state.step + 1 in stops:
            os.kill(os.getpid(), number)
        return step(self, *arguments)

    monkeypatch.setattr(Loop, "_step", stop)
    for _ in stops:
        assert run_here(spec, tmp_path, *settings) == 128 + number
    assert run_here(spec, tmp_path, *settings) == 0
    runs = [RunFolder(folder / "tiny") for folder in (tmp_path, tmp_path / "whole")]
    assert runs[0].metrics.read_text() == runs[1].metrics.read_text()
    files = [run.checkpoint(10) / "model.safetensors" for run in runs]
    assert files[0].read_bytes() == files[1].read_bytes()


LOSSES = [NAN, 4.0, 2.0, 3.0, 1.0, 5.0]


class Book:
    """The figures of a window: its steps."""

    def __init__(self) -> None:
        self.compute, self.reset = lambda: {"loss": 1.0}, lambda: None


def live(folder: Path, *monitors: Monitor, evaluate_every: int = 1) -> None:
    """Live the life of a run from its last checkpoint, with a network whose weight is the step."""
    run = RunFolder(folder)
    run.create()
    run.restore()
    run.spec.touch()
    network, state = torch.nn.Linear(1, 1, bias=False), TrainState()
    network.averaged = nullcontext  # type: ignore[assignment]
    optimizer = torch.optim.SGD(network.parameters())
    if run.last is not None:
        state = load_checkpoint(run.last, network, optimizer)
    parts: Any = SimpleNamespace(
        network=network,
        spec=SimpleNamespace(
            evaluate=SimpleNamespace(every_steps=evaluate_every),
            checkpoint=SimpleNamespace(
                every_steps=1, keep_last=1, best_metric="loss", best_mode="min"
            ),
            train=SimpleNamespace(log_every=1, patience=None, step_timeout=None),
            objectives=(),
        ),
        plan=SimpleNamespace(global_batch_size=8),
        total_steps=len(LOSSES),
        num_samples=50,
        validate=object(),
        require_validate=object,
    )
    info = make_run_info(folder, state.step)
    observers = Observers([JsonLines(JsonLines.Options()), *monitors], new_manager().hook)
    observers.run_started(info)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    saving = Saving(parts, Ranks("cpu"), info, observers, optimizer, scaler)
    after = AfterStep(parts, Ranks("cpu"), info, observers, saving)
    book: Any = Book()
    try:
        after.resume(state)
        while state.step < len(LOSSES):
            if after.saving.is_written:
                after.saving.settle()
            state.step += 1
            state.position += 8
            network.weight.data.fill_(state.step)
            after(state, book, {"head": 0.1}, 1.0, 0.0, StopRequest())
    finally:
        after.saving.close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(network: torch.nn.Linear, *arguments: Any, **more: Any) -> SplitResult:
        return SplitResult({"loss": LOSSES[int(network.weight) - 1]}, [], {}, 0, 1, {})

    monkeypatch.setattr(after_step, "evaluate", evaluate)
    # A process that is killed, unlike a machine, loses nothing that it has written.
    monkeypatch.setattr(os, "fsync", lambda file: None)


def best_until(step: int) -> int | None:
    losses = {at: loss for at, loss in enumerate(LOSSES[:step], 1) if loss == loss}
    return min(losses, key=losses.__getitem__, default=None)


@pytest.mark.usefixtures("scripted")
def test_the_best_is_the_best_whenever_the_run_is_killed(tmp_path: Path) -> None:
    live(tmp_path / "whole")
    whole = RunFolder(tmp_path / "whole")
    assert whole.best == whole.checkpoint(5)
    assert whole.checkpoints() == [whole.checkpoint(5), whole.checkpoint(6)]
    for operation in itertools.count():
        run = RunFolder(tmp_path / str(operation))
        if not is_killed(run.path, operation, lambda: live(run.path)):  # noqa: B023
            break
        # The best of what was evaluated is there before anything resumes.
        last = 0 if run.last is None else int(run.last.name[5:])
        evaluated = [best_until(step) for step in (last - 1, last) if step >= 0]
        best = None if run.best is None else int(run.best.name[5:])
        assert best in evaluated, operation
        # A second kill, just as late in the life that resumes.
        is_killed(run.path, operation // 3, lambda: live(run.path))  # noqa: B023
        live(run.path)
        assert run.metrics.read_text() == whole.metrics.read_text(), operation
        assert run.best == run.checkpoint(5)
        names = [sorted(p.name for p in (r.path / "checkpoints").iterdir()) for r in (run, whole)]
        assert names[0] == names[1], operation
        for name in ("state.json", "model.safetensors"):
            assert (run.checkpoint(6) / name).read_bytes() == (
                whole.checkpoint(6) / name
            ).read_bytes(), operation
        shutil.rmtree(run.path)
    assert operation > 100


@pytest.mark.usefixtures("scripted")
def test_a_kill_beside_training_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Training and the thread that writes are under way at once, and in any order."""
    live(tmp_path / "whole", evaluate_every=3)
    whole = RunFolder(tmp_path / "whole")
    for operation in itertools.count(step=2):
        run = RunFolder(tmp_path / str(operation))
        if not is_killed(run.path, operation, lambda: live(run.path, evaluate_every=3)):  # noqa: B023
            break
        if run.last is not None:
            weight = torch.nn.Linear(1, 1, bias=False)
            step = load_checkpoint(run.last, weight, None).step
            assert (int(weight.weight), run.last.name) == (step, f"step-{step:08d}")
        live(run.path, evaluate_every=3)
        assert run.metrics.read_text() == whole.metrics.read_text(), operation
        names = [sorted(p.name for p in (r.path / "checkpoints").iterdir()) for r in (run, whole)]
        assert names[0] == names[1], operation
        shutil.rmtree(run.path)
    assert operation > 80


class Bests(Monitor):
    """Notes which checkpoint is the best whenever one is saved."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None]] = []

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        best = run.best_checkpoint
        self.seen.append((step, None if best is None else int(best.name[5:])))


@pytest.mark.usefixtures("scripted")
def test_observers_of_a_checkpoint_know_whether_it_is_the_best(tmp_path: Path) -> None:
    live(tmp_path, bests := Bests())
    assert bests.seen == [(step, best_until(step)) for step in range(1, len(LOSSES) + 1)]
    live(tmp_path, bests := Bests())
    assert bests.seen == []


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"step": 6, "best": "x"}'])
def test_without_its_record_an_evaluation_is_repeated(tmp_path: Path, text: str | None) -> None:
    live(tmp_path)
    run = RunFolder(tmp_path)
    record = tmp_path / "checkpoints" / "best.json"
    whole, lines = record.read_text(), run.metrics.read_text()
    assert json.loads(whole) == {"step": 6, "best": 1.0, "num_worse": 1}
    if text is None:
        record.unlink()
    else:
        record.write_text(text)
    live(tmp_path)
    assert record.read_text() == whole
    assert run.metrics.read_text() == lines
    assert run.best == run.checkpoint(5)


def test_an_evaluation_that_fails_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["train.max_steps=4", "evaluate.every_steps=2", "checkpoint.every_steps=100"]
    whole = train(tmp_path / "whole", *settings)
    evaluate = after_step.evaluate

    def fail(*arguments: Any, **more: Any) -> SplitResult:
        raise DataError("photo.jpg: cut short")

    for _ in range(2):
        monkeypatch.setattr(after_step, "evaluate", fail)
        with pytest.raises(DataError, match=r"photo\.jpg: cut short"):
            train(tmp_path / "failed", *settings)
        run = RunFolder(tmp_path / "failed/tiny")
        assert run.checkpoints() == [run.checkpoint(2)]
        assert run.best is None
    monkeypatch.setattr(after_step, "evaluate", evaluate)
    train(tmp_path / "failed", *settings)
    assert run.metrics.read_text() == whole.metrics.read_text()
    assert run.best is not None
    assert whole.best is not None
    assert run.best.name == whole.best.name


def test_validation_data_that_cannot_be_read_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Shapes.sample

    def sample_or_fail(self: Shapes, index: int, generator: Any) -> Any:
        if len(self) == 21:
            raise DataError("validation.arrow: row 0: cut short")
        return sample(self, index, generator)

    monkeypatch.setattr(Shapes, "sample", sample_or_fail)
    with pytest.raises(DataError, match=r"validation\.arrow: row 0: cut short"):
        train(tmp_path)
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()


def test_an_objective_without_targets_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collate = MLM.collate

    def collate_nothing(self: MLM, samples: Any, builder: Any) -> Any:
        batch = collate(self, samples, builder)
        empty = {name: tensor[:0] for name, tensor in batch.tensors.items()}
        return attrs.evolve(batch, num_targets=0, tensors=empty)

    monkeypatch.setattr(MLM, "collate", collate_nothing)
    run = train(tmp_path, "train.max_steps=3")
    assert capsys.readouterr().out.count("had no targets") == 1
    assert all("mlm/loss" not in line and line["itm/loss"] for line in metrics(run.path))
    # Nothing else to measure.
    text = TINY.replace('[[objectives]]\ntype = "itm"\nnegatives = "dataset"', "")
    spec = write_spec(tmp_path / "alone", text)
    with pytest.raises(DataError, match=r"data\.validate: no sample has a target of any objective"):
        run_here(spec, tmp_path / "alone", "train.max_steps=1")
