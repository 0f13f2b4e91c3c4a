"""The console: plain lines in a pipe; on a terminal, the same lines wrapped, and a bar below."""

import os
import re
import sys
import time
from pathlib import Path

import attrs
import pytest
from rich.progress import Task, TaskID
from support.terminal import on_a_terminal, visible_lines

from renaissance import progress
from renaissance.builtin.monitors.console import Console
from renaissance.testing.made_up_run import (
    make_evaluation,
    make_run_info,
    make_step_report,
    write_checkpoint,
)

MANY = {f"objective-{index}/loss": 1.0 for index in range(9)}


def play(folder: Path, metrics: dict[str, float] | None = None) -> None:
    """Play a short run to the console."""
    run = make_run_info(folder, start_step=2)
    monitor = Console(Console.Options())
    monitor.run_started(run)
    report, evaluation = make_step_report(4), make_evaluation(4)
    if metrics is not None:
        report = attrs.evolve(report, metrics=metrics)
        evaluation = attrs.evolve(evaluation, metrics=metrics)
    monitor.progressed(run, 3)
    # A bar is drawn ten times a second.
    time.sleep(0.25)
    monitor.progressed(run, 4)
    monitor.step_finished(run, report)
    monitor.evaluated(run, evaluation)
    monitor.checkpoint_saved(run, 4, write_checkpoint(run, 4))
    monitor.run_finished(run, "stopped by SIGTERM", {"step": 4, "metrics": {}})


def test_nobody_has_to_read_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        play(tmp_path)


def test_plain_lines_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"resuming {tmp_path}: step 2 of 8",
        "8 samples per step: 1 rank x 8  40 samples per epoch",
        "not trained, since no objective uses them: model.image_encoder.pooler",
        "step 4/8  train     loss 0.5000  itm/loss 0.5000  itm/accuracy 0.8750  104.0 samples/s  "
        "data wait 4%",
        "step 4/8  validate  loss 0.7500  itm/loss 0.7500  itm/accuracy 0.8500",
        f"step 4  saved {tmp_path}/checkpoints/step-00000004",
        f"stopped by SIGTERM at step 4 of 8: {tmp_path}; the same command resumes from here",
    ]


def test_a_line_in_a_pipe_is_never_wrapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    play(tmp_path, MANY)
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("step 4/8  train")]
    assert all(f"  {name} 1.0000" in line for name in MANY)


def test_many_unused_parameters_are_named_by_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(f"layer.{index}.{kind}" for index in range(6) for kind in ("weight", "bias"))
    run = attrs.evolve(make_run_info(tmp_path), unused_parameters=names)
    Console(Console.Options()).run_started(run)
    assert capsys.readouterr().out.endswith(
        "uses them: layer.0, layer.1, layer.2, layer.3 and 2 more modules\n"
    )


def test_eighty_columns_hold_the_bar_with_step_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = visible_lines(on_a_terminal(lambda: play(tmp_path, MANY), monkeypatch))
    bars = [line for line in lines if re.fullmatch(r"step +\d+/8 .*", line) and "left" in line]
    assert re.fullmatch(r"step +2/8 ━+.* \d:\d\d:\d\d left [-\d:]+", bars[0])
    # It moves with every step, logged or not, and knows the time left from the first one on.
    assert any(re.fullmatch(r"step +3/8 ━+.* \d:\d\d:\d\d left \d:\d\d:\d\d", bar) for bar in bars)
    assert re.fullmatch(r"step +4/8 ━+.* \d:\d\d:\d\d left \d:\d\d:\d\d", bars[-1])
    # The bar takes the whole width, whatever there is to say.
    assert {len(bar) for bar in bars} == {80}


def test_eighty_columns_wrap_figures_between_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = visible_lines(on_a_terminal(lambda: play(tmp_path, MANY), monkeypatch))
    start = next(i for i, line in enumerate(lines) if line.startswith("step 4/8"))
    # The bar is drawn again below each line that is printed.
    said = [line for line in lines[start:] if "left" not in line]
    end = next(i for i, line in enumerate(said) if "data wait" in line)
    assert all(len(line) <= 80 for line in said[: end + 1])
    text = "  ".join(line.strip() for line in said[: end + 1])
    pieces = re.split(r" {2,}", text.replace("loss  ", "loss "))
    figures = [f"{name} 1.0000" for name in MANY]
    assert pieces == ["step 4/8", "train", *figures, "104.0 samples/s", "data wait 4%"]
    # In columns: all figures of a row begin where those of the first do.
    rows = [line for line in said[1 : end + 1] if "objective-" in line]
    starts = [[match.start() for match in re.finditer("objective-", row)] for row in rows]
    assert len(rows) > 1
    assert all(row == starts[0][: len(row)] for row in starts)


def test_the_figures_of_all_steps_are_aligned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        monitor, run = Console(Console.Options()), make_run_info(tmp_path)
        for step, loss in ((2, 12.5), (8, 0.5)):
            report = attrs.evolve(make_step_report(step), metrics={"loss": loss, "mlm/loss": 1.0})
            monitor.step_finished(attrs.evolve(run, total_steps=100), report)
            monitor.evaluated(attrs.evolve(run, total_steps=100), make_evaluation(step))

    lines = visible_lines(on_a_terminal(act, monkeypatch))
    heads = [line for line in lines if line.startswith("step")]
    assert heads[0] == "step   2/100  train"
    assert heads[1].startswith("step   2/100  validate  loss  1.5000  itm/loss  1.5000")
    assert heads[3].startswith("step   8/100  validate  loss  0.3750  itm/loss  0.3750")
    figures = [line for line in lines if line.startswith("    loss")]
    assert [line.index("mlm/loss") for line in figures] == [figures[0].index("mlm/loss")] * 2
    assert figures[0].startswith("    loss 12.5000 ")
    assert figures[1].startswith("    loss  0.5000 ")


def test_the_time_left_is_known_although_steps_take_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    times = progress._Times(10)
    task = Task(TaskID(0), "", 20, 10, lambda: now)
    assert times.render(task).plain == "0:00:00 left -:--:--"
    now, task.completed = 1060.0, 11
    assert times.render(task).plain == "0:01:00 left 0:09:00"
    now = 1090.0
    # Half of the next step has passed.
    assert times.render(task).plain == "0:01:30 left 0:08:30"
