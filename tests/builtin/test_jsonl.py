"""`metrics.jsonl`: what is written, and what is dropped where a run resumes."""

import json
import os
from pathlib import Path

import attrs
import pytest
from support.kills import is_killed
from support.running import metrics

from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report


def start(folder: Path, start_step: int = 0) -> JsonLines:
    monitor = JsonLines(JsonLines.Options())
    monitor.run_started(make_run_info(folder, start_step))
    return monitor


def log(monitor: JsonLines, folder: Path, *steps: int) -> None:
    run = make_run_info(folder)
    for step in steps:
        monitor.step_finished(run, make_step_report(step))
        monitor.evaluated(run, make_evaluation(step))


def test_a_line_per_step_and_evaluation_without_timings(tmp_path: Path) -> None:
    log(start(tmp_path), tmp_path, 2)
    assert metrics(tmp_path) == [
        {
            "step": 2,
            "epoch": 0.4,
            "split": "train",
            "loss": 1.0,
            "itm/loss": 1.0,
            "itm/accuracy": 0.75,
            "learning_rate/encoder": 2e-4,
            "learning_rate/fusion": 1e-3,
            "learning_rate/head": 2e-3,
            "gradient_norm": 1.5,
        },
        {
            "step": 2,
            "epoch": 0.4,
            "split": "validate",
            "loss": 1.5,
            "itm/loss": 1.5,
            "itm/accuracy": 0.7,
        },
    ]


def test_a_resumed_run_writes_the_same_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    log(start(tmp_path / "whole"), tmp_path / "whole", 2, 4, 6, 8)
    resumed = tmp_path / "resumed"
    log(start(resumed), resumed, 2, 4, 6)
    # Killed while it wrote.
    with (resumed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    log(start(resumed, start_step=4), resumed, 6, 8)
    whole = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (resumed / "metrics.jsonl").read_text() == whole
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert [path.name for path in resumed.iterdir()] == ["metrics.jsonl"]


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    info = make_run_info(tmp_path, 2)
    lines = [f'{{"step": {step}, "split": "train"}}\n'.encode() for step in (1, 2)]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines[0] + b"\xff\x00\n" + lines[1])
    JsonLines(JsonLines.Options()).run_started(info)
    assert path.read_bytes() == b"".join(lines)


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    monitor, run = start(tmp_path), make_run_info(tmp_path)
    report = make_step_report(2)
    for value in (float("nan"), float("inf"), float("-inf")):
        figures = {"loss": value, "itm/loss": 1.0}
        monitor.step_finished(run, attrs.evolve(report, metrics=figures, gradient_norm=value))
        monitor.evaluated(run, attrs.evolve(make_evaluation(2), metrics=figures))
    lines = metrics(tmp_path)
    assert [(line["loss"], line["itm/loss"]) for line in lines] == [(None, 1.0)] * 6
    assert [line["gradient_norm"] for line in lines if line["split"] == "train"] == [None] * 3
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_the_lines_survive_a_kill_at_any_point_of_a_resume(tmp_path: Path) -> None:
    log(start(tmp_path), tmp_path, 2, 4, 6, 8)
    whole = (tmp_path / "metrics.jsonl").read_text()
    kept = "".join(line + "\n" for line in whole.splitlines()[:4])
    operation = 0
    while is_killed(tmp_path, operation, lambda: start(tmp_path, start_step=4)):
        assert (tmp_path / "metrics.jsonl").read_text() in (whole, kept)
        operation += 1
    assert operation > 1
    assert (tmp_path / "metrics.jsonl").read_text() == kept


def test_the_lines_are_on_disk_before_they_replace_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(start(tmp_path), tmp_path, 2)
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *a: (done.append("replace"), replace(*a)))
    start(tmp_path, start_step=2)
    assert done == ["fsync", "replace"]


def test_a_device_in_place_of_the_file_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It never ends.
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log(start(tmp_path, start_step=2), tmp_path, 4)
    assert "/metrics.jsonl: [Errno 28] No space left on device" in capsys.readouterr().out
