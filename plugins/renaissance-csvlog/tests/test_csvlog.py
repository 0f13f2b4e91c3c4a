"""The package in a fresh virtual environment: installed with pip, and a run with it."""

import csv
import json
from pathlib import Path

import pytest
from support.fresh_environment import FreshEnvironment, copy_package
from support.running import TINY, write_spec

SETTINGS = "evaluate.every_steps=4 train.log_every=2"


@pytest.mark.slow
def test_a_run_writes_its_figures(tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    copy_package("renaissance-csvlog", tmp_path)
    fresh.run("pip install ./renaissance-csvlog")
    assert "nothing is wrong" in fresh.run("renaissance plugins doctor")
    write_spec(tmp_path, TINY)
    fresh.run(f"renaissance run.toml train.max_steps=4 {SETTINGS}")
    # Resumed: rows are neither lost nor written twice.
    fresh.run(f"renaissance run.toml train.max_steps=8 {SETTINGS}")
    run = tmp_path / "runs" / "tiny"
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for split in ("train", "validate"):
        found = {
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
        assert found == expected
        assert len(found) == sum(row["split"] == split for row in rows)
    ended = [row["value"] for row in rows if row["metric"] == "ended"]
    assert ended == ["finished"]
    assert [r["value"] for r in rows if r["metric"] == "checkpoint"] == ["step-00000008"]
