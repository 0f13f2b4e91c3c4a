"""The monitor."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from renaissance import Evaluation, Monitor, RunInfo, SpecError, StepReport, draw_panel, option
from renaissance_mlflow.names import allowed_name, parameters_of

if TYPE_CHECKING:
    from renaissance_mlflow.run import TrackedRun

# mlflow is imported where a run uses it: it takes seconds, which `renaissance --help` does without.

SQLITE = "sqlite:///"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
STATUS = {"finished": "FINISHED", "failed": "FAILED"}


class MLflow(Monitor):
    """Sends a run to MLflow: its figures, spec and pictures."""

    @attrs.frozen
    class Options:
        """What can be set in the run spec."""

        tracking_uri: str | None = option(
            None,
            help="Tracking server or database; where absent, the environment variable "
            "MLFLOW_TRACKING_URI, else a database in the run folder.",
        )
        experiment: str = option("renaissance", help="Experiment that the run belongs to.")
        panel: bool = option(True, help="Send the picture panel of each evaluation.")
        log_checkpoints: bool = option(
            False,
            help="Upload the best checkpoint, or the last without validation, once the run is "
            "finished.",
        )

    def __init__(self, options: Options) -> None:
        self._options = options
        self._uri = options.tracking_uri or os.environ.get(URI_VARIABLE)
        self._tracked: TrackedRun
        self._checkpoint: Path | None = None
        if self._uri is not None:
            _check_answer(self._uri)

    def run_started(self, run: RunInfo) -> None:
        """Begin the run at MLflow, or go on with it."""
        from mlflow import MlflowClient

        from renaissance_mlflow.run import TrackedRun

        uri = self._uri or f"{SQLITE}{run.folder.resolve() / 'mlflow.db'}"
        self._tracked = TrackedRun(
            MlflowClient(uri), self._options.experiment, _artifacts(uri), run.folder
        )
        self._tracked.set_parameters(parameters_of(run.spec))
        self._tracked.client.log_text(self._tracked.id, run.spec_text, "spec.toml")

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Send a training step."""
        self._tracked.log(report.step, report.figures())

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Send an evaluation, with its pictures."""
        is_new = self._tracked.log(evaluation.step, evaluation.figures())
        if not is_new:
            return
        pictures = dict(evaluation.pictures)
        if self._options.panel and evaluation.panel:
            pictures["panel"] = draw_panel(evaluation.panel)
        for name, picture in pictures.items():
            self._tracked.client.log_image(
                self._tracked.id,
                picture,
                key=allowed_name(f"{evaluation.split}/{name}"),
                step=evaluation.step,
            )

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Note where the best checkpoint is."""
        self._checkpoint = run.best_checkpoint or folder
        self._tracked.client.set_tag(self._tracked.id, "best_checkpoint", str(self._checkpoint))

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, Any]) -> None:
        """End the run, with the checkpoint if it is asked for."""
        client, identifier = self._tracked.client, self._tracked.id
        client.set_tag(identifier, "ended", reason)
        if self._options.log_checkpoints and self._checkpoint and reason == "finished":
            client.log_artifacts(identifier, str(self._checkpoint), "checkpoint")
        client.set_terminated(identifier, STATUS.get(reason, "KILLED"))


def _artifacts(uri: str) -> Path | None:
    """Return where artifacts go: beside a database file; None leaves the choice to a server.

    For a database, MLflow would choose the current folder.
    """
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE)).resolve().parent / "mlflow-artifacts"


def _check_answer(uri: str) -> None:
    """Check that runs can be sent.

    Raises:
        SpecError: If there is no answer, or a refusal.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # MLflow would wait two minutes for each of eight answers, and all GPUs with it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    try:
        with _environment("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"):
            MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise SpecError(
            f"monitors: 'mlflow': {uri}: {error}; correct tracking_uri or {URI_VARIABLE}, see to "
            "the server and your login, or take 'mlflow' out of [[monitors]]"
        ) from error


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
