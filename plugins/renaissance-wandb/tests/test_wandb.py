"""What is sent to Weights & Biases, read back from the files of runs without a network."""

import json
import os
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image
from support.installing import install_metadata
from support.running import TINY, metrics, run_here, write_spec

from renaissance import SpecError, draw_panel
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.confusion_matrix import draw_confusion_matrix
from renaissance.testing import check_monitor
from renaissance.testing.made_up_run import (
    make_evaluation,
    make_run_info,
    make_step_report,
    write_checkpoint,
)

pytest.importorskip("wandb", reason="wandb is not installed (pip install wandb)")

from renaissance_wandb import WandB

PACKAGE = Path(__file__).parents[1]
TIMINGS = {"run/samples_per_second", "run/data_wait_share", "run/peak_memory_gib"}


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep runs here, and out of the user's own files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    reset_wandb()


def reset_wandb() -> None:
    """Have wandb read the environment again."""
    import wandb

    wandb.teardown()


def play(folder: Path, start_step: int, *steps: int, **options: Any) -> None:
    """Play a run to its end, with evaluations, and a checkpoint after the first step."""
    folder.mkdir(parents=True, exist_ok=True)
    run = make_run_info(folder, start_step)
    for monitor in (JsonLines(JsonLines.Options()), WandB(WandB.Options(**options))):
        monitor.run_started(run)
        for step in steps:
            monitor.step_finished(run, make_step_report(step))
            monitor.evaluated(run, make_evaluation(step, num_images=3))
            if step == steps[0] and isinstance(monitor, WandB):
                monitor.checkpoint_saved(run, step, write_checkpoint(run, step))
        monitor.run_finished(run, "finished", {"step": steps[-1], "metrics": {}})


def files_of(folder: Path) -> list[Path]:
    """Return a run's files, one per process, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def records_of(folder: Path, kind: str) -> list[Any]:
    """Return the records of a kind that all processes of a run wrote."""
    lines: list[str] = []
    for file in files_of(folder):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines += subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    return [record[kind] for record in records if record["type"] == kind]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [record["item"] for record in records_of(folder, "history")]


def assert_figures_are_those_of_metrics_jsonl(folder: Path) -> None:
    """Compare row by row: each once, in the same order, with the same keys and values."""
    rows = rows_of(folder)
    lines: list[dict[str, Any]] = metrics(folder)
    assert [row["step"] for row in rows] == [line["step"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        split = line.pop("split")
        expected = {
            **{
                f"run/{name}": line.pop(name) for name in ("epoch", "gradient_norm") if name in line
            },
            **{name: line.pop(name) for name in list(line) if name.startswith("learning_rate/")},
            "step": line.pop("step"),
        }
        if split != "train":
            del expected["run/epoch"]
        expected |= {f"{split}/{name}": value for name, value in line.items()}
        found = {
            name: value
            for name, value in row.items()
            if not name.startswith(("_", f"{split}/panel")) and name not in TIMINGS
        }
        assert found == expected
        assert split != "train" or set(row) >= TIMINGS


def test_contract() -> None:
    check_monitor(WandB)


def test_contract_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    reset_wandb()
    check_monitor(WandB)


def test_figures_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    play(tmp_path / "run", 0, 2, 4, 6, 8)
    assert_figures_are_those_of_metrics_jsonl(tmp_path / "run")
    # Drawn over training steps.
    (over,) = [m for m in records_of(tmp_path / "run", "metric") if m.get("glob_name") == "*"]
    assert over["step_metric"] == "step"


KILLED = """
import os, signal, sys, time
from pathlib import Path
import wandb
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.confusion_matrix import draw_confusion_matrix
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report
from renaissance_wandb import WandB

wandb.setup(wandb.Settings(x_transaction_log_flush_interval=0.2))
run = make_run_info(Path(sys.argv[1]))
for monitor in (JsonLines(JsonLines.Options()), WandB(WandB.Options())):
    monitor.run_started(run)
    for step in (2, 4, 6):
        monitor.step_finished(run, make_step_report(step))
        monitor.evaluated(run, make_evaluation(step))
        time.sleep(float(sys.argv[2]))
    monitor.step_finished(run, make_step_report(8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_and_resume(folder: Path, seconds: float) -> list[int]:
    """Kill a run after step 8, resume it from step 2; return the steps that had reached the disk.

    Args:
        folder: The run folder.
        seconds: Time between the steps; wandb writes what it has five times per second here.
    """
    command = [sys.executable, "-c", KILLED, str(folder), str(seconds)]
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -9
    survived = [row["step"] for row in rows_of(folder)]
    identifier = json.loads((folder / "wandb.json").read_text())["id"]
    play(folder, 2, 4, 6, 8)
    assert json.loads((folder / "wandb.json").read_text()) == {"id": identifier}
    assert {run["run_id"] for run in records_of(folder, "run")} == {identifier}
    assert len(files_of(folder)) == 2
    return survived


def test_a_killed_run_does_not_send_its_rows_twice(tmp_path: Path) -> None:
    survived = kill_and_resume(tmp_path, seconds=0.5)
    assert survived[:4] == [2, 2, 4, 4]
    assert_figures_are_those_of_metrics_jsonl(tmp_path)


def test_rows_that_were_lost_are_sent_again(tmp_path: Path) -> None:
    survived = kill_and_resume(tmp_path, seconds=0)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows if row["step"] > 2] == [4, 4, 6, 6, 8, 8]
    assert [row["step"] for row in rows][: len(survived)] == survived


def test_the_spec_is_config_and_file_and_the_best_checkpoint_is_named(tmp_path: Path) -> None:
    run = make_run_info(tmp_path / "named")
    play(run.folder, 0, 2, project="vision", entity="lab")
    (record,) = records_of(run.folder, "run")
    config = record["config"]["update"]
    assert {key: value for key, value in config.items() if key != "_wandb"} == run.spec
    assert (record["project"], record["entity"], record["display_name"]) == (
        "vision",
        "lab",
        "named",
    )
    (file,) = files_of(run.folder)
    assert tomllib.loads((file.parent / "files" / "spec.toml").read_text()) == run.spec
    assert {"path": "spec.toml"} in [
        entry for record in records_of(run.folder, "files") for entry in record["files"]
    ]
    summary: dict[str, Any] = {}
    for record in records_of(run.folder, "summary"):
        summary |= record["update"]
    assert summary["best_checkpoint"] == str(run.folder / "checkpoints" / "step-00000002")
    assert summary["ended"] == "finished"
    # No weights unless they are asked for.
    assert records_of(run.folder, "artifact") == []
    assert not (tmp_path / "data").exists()


def test_a_resumed_run_updates_its_config(tmp_path: Path) -> None:
    play(tmp_path, 0, 2)
    run = make_run_info(tmp_path, 2)
    longer = attrs.evolve(run, spec={**run.spec, "train": {"max_steps": 99}})
    monitor = WandB(WandB.Options())
    monitor.run_started(longer)
    monitor.run_finished(longer, "stopped by SIGTERM", {"step": 2, "metrics": {}})
    first, second = records_of(tmp_path, "run")
    assert first["config"]["update"]["train"]["max_steps"] == 8
    assert second["config"]["update"]["train"] == {"max_steps": 99}


def test_the_panel(tmp_path: Path) -> None:
    play(tmp_path / "with", 0, 2)
    (path,) = [
        row["validate/panel.path"] for row in rows_of(tmp_path / "with") if "validate/loss" in row
    ]
    (file,) = files_of(tmp_path / "with")
    shown = np.asarray(Image.open(file.parent / "files" / path))
    assert np.array_equal(shown, np.asarray(draw_panel(make_evaluation(2, 3).panel)))
    play(tmp_path / "without", 0, 2, panel=False)
    assert not any("panel" in key for row in rows_of(tmp_path / "without") for key in row)


def test_pictures_of_metrics(tmp_path: Path) -> None:
    picture = draw_confusion_matrix([[3, 1], [0, 5]], ["cat", "dog"])
    evaluation = attrs.evolve(make_evaluation(2), pictures={"classification/confusion": picture})
    run, monitor = make_run_info(tmp_path), WandB(WandB.Options(panel=False))
    monitor.run_started(run)
    monitor.evaluated(run, evaluation)
    monitor.run_finished(run, "finished", {"step": 2, "metrics": {}})
    (row,) = rows_of(tmp_path)
    (file,) = files_of(tmp_path)
    shown = Image.open(file.parent / "files" / row["validate/classification/confusion.path"])
    assert np.array_equal(np.asarray(shown), np.asarray(picture))


def test_the_best_checkpoint_is_uploaded_if_asked_for(tmp_path: Path) -> None:
    play(tmp_path / "a run", 0, 2, 4, log_checkpoints=True)
    (artifact,) = records_of(tmp_path / "a run", "artifact")
    assert artifact["name"] == "a_run-checkpoint"
    assert artifact["type"] == "model"
    assert set(artifact["aliases"]) == {"step-00000002", "latest"}
    paths = {entry["path"] for entry in artifact["manifest"]["contents"]}
    assert paths == {"model.safetensors", "spec.toml"}


def test_a_failed_run_is_marked_as_failed(tmp_path: Path) -> None:
    run = make_run_info(tmp_path)
    monitor = WandB(WandB.Options())
    monitor.run_started(run)
    monitor.run_finished(run, "failed", {"step": 0, "metrics": {}})
    assert [record.get("exit_code") for record in records_of(tmp_path, "exit")] == [1]


def test_without_an_account_the_run_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    reset_wandb()
    text = (
        "monitors: 'wandb': not logged in; run `wandb login`, set WANDB_MODE=offline to send the "
        "run later with `wandb sync`, or take 'wandb' out of [[monitors]]"
    )
    with pytest.raises(SpecError) as caught:
        WandB(WandB.Options())
    assert str(caught.value) == text


class Refuses(BaseHTTPRequestHandler):
    """Answers that the key is wrong."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"invalid key")

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def test_with_a_wrong_key_the_run_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    reset_wandb()
    with pytest.raises(
        SpecError, match=r"^monitors: 'wandb': .*; run `wandb login`, set WANDB_MODE"
    ):
        WandB(WandB.Options())
    server.shutdown()


def test_a_run_with_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it were installed, or as it is.
    install_metadata(PACKAGE, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    settings = ("train.max_steps=4", "evaluate.every_steps=4")
    spec_file = write_spec(tmp_path, TINY)
    assert run_here(spec_file, tmp_path, str(PACKAGE / "recipes" / "wandb.toml"), *settings) == 0
    assert_figures_are_those_of_metrics_jsonl(tmp_path / "tiny")
    (record,) = records_of(tmp_path / "tiny", "run")
    assert record["project"] == "renaissance"
    spec = tomllib.loads((tmp_path / "tiny" / "spec.toml").read_text())
    config = record["config"]["update"]
    assert {key: value for key, value in config.items() if key != "_wandb"} == spec
