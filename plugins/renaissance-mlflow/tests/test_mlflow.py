"""What is sent to MLflow, read back from its database."""

import json
import os
import signal
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

from renaissance import Evaluation, RunInfo, SpecError, StepReport, draw_panel
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.confusion_matrix import draw_confusion_matrix
from renaissance.testing import check_monitor
from renaissance.testing.made_up_run import (
    make_evaluation,
    make_run_info,
    make_step_report,
    write_checkpoint,
)

pytest.importorskip("mlflow", reason="mlflow is not installed (pip install mlflow-skinny)")
pytest.importorskip("sqlalchemy", reason="MLflow's database needs sqlalchemy (pip install it)")
pytest.importorskip("alembic", reason="MLflow's database needs alembic (pip install it)")

from mlflow import MlflowClient
from mlflow.entities import Run
from renaissance_mlflow import MLflow
from renaissance_mlflow.names import parameters_of

PACKAGE = Path(__file__).parents[1]
TIMINGS = {"run/samples_per_second", "run/data_wait_share", "run/peak_memory_gib"}


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Whatever goes to the current folder by mistake is seen.
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")


def play(folder: Path, start_step: int, *steps: int, **options: Any) -> None:
    """Play a run to its end, with evaluations, and a checkpoint after the first step."""
    folder.mkdir(parents=True, exist_ok=True)
    run = make_run_info(folder, start_step)
    for monitor in (JsonLines(JsonLines.Options()), MLflow(MLflow.Options(**options))):
        monitor.run_started(run)
        for step in steps:
            monitor.step_finished(run, make_step_report(step))
            monitor.evaluated(run, make_evaluation(step, num_images=3))
            if step == steps[0] and isinstance(monitor, MLflow):
                monitor.checkpoint_saved(run, step, write_checkpoint(run, step))
        monitor.run_finished(run, "finished", {"step": steps[-1], "metrics": {}})


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def tracked(folder: Path) -> Run:
    """Return the only run in a run folder's database, which is the one that its record names."""
    client = client_of(folder)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert json.loads((folder / "mlflow.json").read_text()) == {"run_id": run.info.run_id}
    return run


def history(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Return all logged values by figure and step."""
    client, run = client_of(folder), tracked(folder)
    values: dict[tuple[str, int], list[float]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            values.setdefault((key, metric.step), []).append(metric.value)
    return values


def assert_figures_are_those_of_metrics_jsonl(folder: Path) -> None:
    """Compare every figure: each once, with the same name, step and value."""
    expected: dict[tuple[str, int], list[float]] = {}
    lines: list[dict[str, Any]] = metrics(folder)
    for line in lines:
        split, step = line.pop("split"), line.pop("step")
        for name, value in line.items():
            if name in ("epoch", "gradient_norm"):
                if split == "train":
                    expected[f"run/{name}", step] = [value]
            elif name.startswith("learning_rate/"):
                expected[name, step] = [value]
            else:
                expected[f"{split}/{name}", step] = [value]
    found = history(folder)
    assert {key: value for key, value in found.items() if key[0] not in TIMINGS} == expected
    steps = {line_step for name, line_step in expected if name == "train/loss"}
    assert {key for key in found if key[0] in TIMINGS} == {(n, s) for n in TIMINGS for s in steps}


def artifacts(folder: Path) -> dict[str, Path]:
    """Return the files of a run's artifacts by their paths there."""
    root = Path(tracked(folder).info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


def test_contract() -> None:
    check_monitor(MLflow)


def test_figures_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    play(tmp_path / "run", 0, 2, 4, 6, 8)
    assert_figures_are_those_of_metrics_jsonl(tmp_path / "run")
    assert tracked(tmp_path / "run").info.status == "FINISHED"
    assert list((tmp_path / "current").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from renaissance.builtin.monitors.jsonl import JsonLines
from renaissance.confusion_matrix import draw_confusion_matrix
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report
from renaissance_mlflow import MLflow

run = make_run_info(Path(sys.argv[1]))
for monitor in (JsonLines(JsonLines.Options()), MLflow(MLflow.Options())):
    monitor.run_started(run)
    for step in (2, 4, 6):
        monitor.step_finished(run, make_step_report(step))
        monitor.evaluated(run, make_evaluation(step, num_images=1))
    monitor.step_finished(run, make_step_report(8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_does_not_send_its_figures_twice(tmp_path: Path) -> None:
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    before = tracked(tmp_path)
    assert before.info.status == "RUNNING"
    play(tmp_path, 2, 4, 6, 8)
    after = tracked(tmp_path)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert_figures_are_those_of_metrics_jsonl(tmp_path)
    # Of each panel there is one, with its thumbnail.
    panels = [name for name in artifacts(tmp_path) if name.endswith(".png")]
    assert sorted(name.split("+")[2] for name in panels) == ["2", "4", "6", "8"]


def test_the_spec_is_parameters_and_file_and_the_best_checkpoint_is_named(tmp_path: Path) -> None:
    run = make_run_info(tmp_path / "named")
    play(run.folder, 0, 2, experiment="vision")
    found = tracked(run.folder)
    assert found.data.params == {
        "run.name": "made-up",
        "run.seed": "0",
        "run.plugins": "[]",
        "objectives.0.type": "itm",
        "objectives.0.weight": "1.0",
        "train.max_steps": "8",
        "train.compile": "false",
    }
    assert found.info.run_name == "named"
    experiment = client_of(run.folder).get_experiment(found.info.experiment_id)
    assert experiment.name == "vision"
    assert found.data.tags["best_checkpoint"] == str(run.folder / "checkpoints" / "step-00000002")
    assert found.data.tags["ended"] == "finished"
    files = artifacts(run.folder)
    assert tomllib.loads(files["spec.toml"].read_text()) == run.spec
    # No weights unless they are asked for.
    assert not any("checkpoint" in name for name in files)


def test_a_resumed_run_tells_what_has_changed(tmp_path: Path) -> None:
    play(tmp_path, 0, 2)
    run = make_run_info(tmp_path, 2)
    spec = {**run.spec, "train": {**run.spec["train"], "max_steps": 99, "min_steps": 1}}
    monitor = MLflow(MLflow.Options())
    monitor.run_started(attrs.evolve(run, spec=spec, spec_text="changed = true"))
    found = tracked(tmp_path)
    assert found.data.params["train.max_steps"] == "8"
    assert found.data.params["train.min_steps"] == "1"
    changed = {k: v for k, v in found.data.tags.items() if k.startswith("resumed_with.")}
    assert changed == {"resumed_with.train.max_steps": "99"}
    assert artifacts(tmp_path)["spec.toml"].read_text() == "changed = true"
    assert found.info.status == "RUNNING"


def test_parameters_fit_what_mlflow_takes(tmp_path: Path) -> None:
    run = make_run_info(tmp_path)
    words = {f"word+{index}": index for index in range(250)}
    spec = {"long": "x" * 7000, "mixed": [1, "a", None], "words": words}
    MLflow(MLflow.Options()).run_started(attrs.evolve(run, spec=spec))
    params = tracked(tmp_path).data.params
    assert len(params) == 252
    assert params["long"] == "x" * 5999 + "…"
    assert params["mixed"] == '[1, "a", null]'
    assert params["words.word_249"] == "249"
    assert params == parameters_of(spec)


def test_names_that_mlflow_does_not_take(tmp_path: Path) -> None:
    run = make_run_info(tmp_path)
    monitor = MLflow(MLflow.Options())
    monitor.run_started(run)
    report: StepReport = attrs.evolve(make_step_report(2), metrics={"refcoco+/recall@1": 0.5})
    evaluation: Evaluation = attrs.evolve(make_evaluation(2, 1), split="test+", metrics={"é": 1.0})
    monitor.step_finished(run, report)
    monitor.evaluated(run, evaluation)
    values = history(tmp_path)
    assert values["train/refcoco_/recall_1", 2] == [0.5]
    assert values["test_/_", 2] == [1.0]


def test_the_panel(tmp_path: Path) -> None:
    play(tmp_path / "with", 0, 2)
    (path,) = [path for name, path in artifacts(tmp_path / "with").items() if name.endswith("png")]
    assert path.name.startswith("validate~panel+step+2+")
    expected = np.asarray(draw_panel(make_evaluation(2, 3).panel))
    assert np.array_equal(np.asarray(Image.open(path)), expected)
    play(tmp_path / "without", 0, 2, panel=False)
    assert set(artifacts(tmp_path / "without")) == {"spec.toml"}


def test_pictures_of_metrics(tmp_path: Path) -> None:
    picture = draw_confusion_matrix([[3, 1], [0, 5]], ["cat", "dog"])
    evaluation = attrs.evolve(make_evaluation(2), pictures={"classification/confusion": picture})
    run = make_run_info(tmp_path)
    # A resumed run does not send again what comes again.
    for _ in range(2):
        monitor = MLflow(MLflow.Options(panel=False))
        monitor.run_started(run)
        monitor.evaluated(run, evaluation)
        monitor.run_finished(run, "finished", {"step": 2, "metrics": {}})
    (path,) = [path for name, path in artifacts(tmp_path).items() if name.endswith("png")]
    assert path.name.startswith("validate~classification~confusion+step+2+")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))


def test_the_best_checkpoint_is_uploaded_if_asked_for(tmp_path: Path) -> None:
    play(tmp_path, 0, 2, 4, log_checkpoints=True, panel=False)
    expected = {"spec.toml", "checkpoint/model.safetensors", "checkpoint/spec.toml"}
    assert set(artifacts(tmp_path)) == expected


@pytest.mark.parametrize(
    ("reason", "status"), [("failed", "FAILED"), ("stopped by SIGTERM", "KILLED")]
)
def test_how_a_run_ended(tmp_path: Path, reason: str, status: str) -> None:
    run: RunInfo = make_run_info(tmp_path)
    monitor = MLflow(MLflow.Options(log_checkpoints=True))
    monitor.run_started(run)
    monitor.checkpoint_saved(run, 2, write_checkpoint(run, 2))
    monitor.run_finished(run, reason, {"step": 2, "metrics": {}})
    found = tracked(tmp_path)
    assert (found.info.status, found.data.tags["ended"]) == (status, reason)
    # A run that goes on, or went wrong, uploads nothing.
    assert set(artifacts(tmp_path)) == {"spec.toml"}


@pytest.mark.parametrize("by", ["option", "environment"])
def test_runs_can_share_a_database(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    (tmp_path / "shared").mkdir()
    options = {"tracking_uri": uri} if by == "option" else {}
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("one", "two"):
        play(tmp_path / name, 0, 2, **options)
        assert not (tmp_path / name / "mlflow.db").exists()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("renaissance")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"one", "two"}
    assert (tmp_path / "shared" / "mlflow-artifacts").is_dir()
    assert list((tmp_path / "current").iterdir()) == []


class Refuses(BaseHTTPRequestHandler):
    """Answers that nobody may enter."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"who are you")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def test_a_server_that_refuses_is_an_error_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    with pytest.raises(SpecError) as caught:
        MLflow(MLflow.Options(tracking_uri=uri))
    server.shutdown()
    text = str(caught.value)
    assert text.startswith(f"monitors: 'mlflow': {uri}: ")
    assert "who are you" in text
    assert text.endswith(
        "; correct tracking_uri or MLFLOW_TRACKING_URI, see to the server and your login, or take "
        "'mlflow' out of [[monitors]]"
    )
    # Later requests are as patient as before.
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_a_run_with_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it were installed, or as it is.
    install_metadata(PACKAGE, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    settings = ("train.max_steps=4", "evaluate.every_steps=4")
    spec_file = write_spec(tmp_path, TINY)
    assert run_here(spec_file, tmp_path, str(PACKAGE / "recipes" / "mlflow.toml"), *settings) == 0
    assert_figures_are_those_of_metrics_jsonl(tmp_path / "tiny")
    found = tracked(tmp_path / "tiny")
    spec = tomllib.loads((tmp_path / "tiny" / "spec.toml").read_text())
    assert found.data.params == parameters_of(spec)
    assert found.info.status == "FINISHED"
