"""The console: plain lines in a pipe; on a terminal, the same lines wrapped, and a bar below."""

import os
import pty
import re
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import attrs
import pytest

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
    monitor.step_finished(run, report)
    monitor.evaluated(run, evaluation)
    monitor.checkpoint_saved(run, 4, write_checkpoint(run, 4))
    monitor.run_finished(run, "stopped by SIGTERM", {"step": 4, "metrics": {}})


def test_plain_lines_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"resuming {tmp_path}: step 2 of 8",
        "8 samples per step: 1 rank x 8  40 samples per epoch",
        "not trained, since no objective uses them: model.image_encoder.pooler",
        "step 4/8  loss 0.5000  itm/loss 0.5000  itm/accuracy 0.8750  104.0 samples/s  "
        "data wait 4%",
        "step 4  validate  loss 0.7500  itm/loss 0.7500  itm/accuracy 0.8500",
        f"step 4  saved {tmp_path}/checkpoints/step-00000004",
        f"stopped by SIGTERM at step 4 of 8: {tmp_path}; the same command resumes from here",
    ]


def test_a_line_in_a_pipe_is_never_wrapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    play(tmp_path, MANY)
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("step 4/8")]
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


def on_a_terminal(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is printed to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    chunks: list[bytes] = []
    # A terminal holds only a few KiB that nobody has read.
    reader = threading.Thread(target=_read_to_the_end, args=(ours, chunks), daemon=True)
    reader.start()
    with os.fdopen(theirs, "w") as stream, redirect_stdout(stream):
        act()
    reader.join(timeout=10)
    os.close(ours)
    return b"".join(chunks).decode()


def _read_to_the_end(descriptor: int, chunks: list[bytes]) -> None:
    # A terminal whose other end is closed is an error on Linux, no data elsewhere.
    with suppress(OSError):
        while chunk := os.read(descriptor, 4096):
            chunks.append(chunk)


def visible_lines(printed: str) -> list[str]:
    """Return the lines that a terminal would have shown at some time, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_eighty_columns_hold_the_bar_with_step_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = visible_lines(on_a_terminal(lambda: play(tmp_path, MANY), monkeypatch))
    bars = [line for line in lines if re.fullmatch(r"step +\d+/8 .*", line) and "left" in line]
    assert re.fullmatch(r"step +2/8 ━+.* \d:\d\d:\d\d left [-\d:]+", bars[0])
    assert re.fullmatch(r"step +4/8 ━+.* \d:\d\d:\d\d left [-\d:]+", bars[-1])
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
    pieces = [piece for line in said[: end + 1] for piece in re.split(r" {2,}", line.strip())]
    figures = [f"{name} 1.0000" for name in MANY]
    assert pieces == ["step 4/8", *figures, "104.0 samples/s", "data wait 4%"]
    assert all(line.startswith("    objective-") for line in said[1:end])
