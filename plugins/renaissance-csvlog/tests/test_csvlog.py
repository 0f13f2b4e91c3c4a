"""The file that it writes, its option, and the package in a fresh virtual environment."""

import csv
from pathlib import Path
from typing import Any

import pytest
from renaissance_csvlog import CSVLog
from support.fresh_environment import FreshEnvironment, copy_package
from support.running import TINY, metrics, write_spec

from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.testing import check_monitor
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report

SETTINGS = "evaluate.every_steps=4 train.log_every=2"
MONITORS = """
[[monitors]]
type = "jsonl"

[[monitors]]
type = "csvlog"
delimiter = ";"
"""


def play(folder: Path, delimiter: str, start_step: int, *steps: int) -> None:
    """Play a run that is killed after its last step."""
    run = make_run_info(folder, start_step)
    for monitor in (JsonLines(JsonLines.Options()), CSVLog(CSVLog.Options(delimiter=delimiter))):
        monitor.run_started(run)
        for step in steps:
            monitor.step_finished(run, make_step_report(step))
            monitor.evaluated(run, make_evaluation(step))


def assert_same_figures(run: Path, delimiter: str) -> list[dict[str, str]]:
    """Compare with metrics.jsonl, and return the rows on the run itself."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    lines: list[dict[str, Any]] = metrics(run)
    for split in ("train", "validate"):
        actual = {
            (int(row["step"]), row["metric"]): float(row["value"])
            for row in rows
            if row["split"] == split
        }
        expected = {
            (line["step"], name): value
            for line in lines
            if line["split"] == split
            for name, value in line.items()
            if name == "loss" or (name.count("/") == 1 and not name.startswith("learning_rate/"))
        }
        assert actual == expected
        assert len(actual) == sum(row["split"] == split for row in rows)
    return [row for row in rows if row["split"] == "run"]


def test_contract() -> None:
    check_monitor(CSVLog)
    check_monitor(CSVLog, CSVLog.Options(delimiter=";"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_figures_are_those_of_metrics_jsonl(tmp_path: Path, delimiter: str) -> None:
    play(tmp_path, delimiter, 0, 2, 4, 6)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(f"7{delimiter}tr")
    play(tmp_path, delimiter, 4, 6, 8)
    assert assert_same_figures(tmp_path, delimiter) == []
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == delimiter.join(("step", "split", "metric", "value"))


def test_a_file_with_another_delimiter_is_left_alone(tmp_path: Path) -> None:
    play(tmp_path, ",", 0, 2)
    before = (tmp_path / "metrics.csv").read_bytes()
    text = r"the first row is \['step,split,metric,value'\], expected .* restore the delimiter"
    with pytest.raises(ValueError, match=text):
        play(tmp_path, ";", 2, 4)
    assert (tmp_path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("delimiter", ["", ";;"])
def test_a_delimiter_has_one_character(delimiter: str) -> None:
    with pytest.raises(ValueError, match="expected one character, such as ';'"):
        CSVLog.Options(delimiter=delimiter)


@pytest.mark.slow
def test_a_run_writes_its_figures(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    copy_package("renaissance-csvlog", tmp_path)
    fresh.run("pip install ./renaissance-csvlog")
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    write_spec(tmp_path, TINY)
    (tmp_path / "monitors.toml").write_text(MONITORS)
    fresh.run(f"renaissance run.toml monitors.toml train.max_steps=4 {SETTINGS}")
    # Resumed: rows are neither lost nor written twice.
    fresh.run(f"renaissance run.toml monitors.toml train.max_steps=8 {SETTINGS}")
    rows = assert_same_figures(tmp_path / "runs" / "tiny", ";")
    assert [row["value"] for row in rows if row["metric"] == "ended"] == ["finished"]
    saved = [row["value"] for row in rows if row["metric"] == "checkpoint"]
    assert saved == ["step-00000008"]
