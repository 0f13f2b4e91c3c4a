"""A run at MLflow: begun or found again, and what it has already."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from renaissance_mlflow.names import allowed_name

PARAMETERS_PER_REQUEST = 100


class TrackedRun:
    """A run at MLflow.

    MLflow takes no figure back. So figures that a killed run had logged after its last checkpoint,
    and that come again once it is resumed, are not logged a second time.

    Args:
        client: The tracking server or database.
        experiment: Name of the experiment; made if absent.
        artifacts: Where a new experiment keeps its artifacts; the server's choice where None.
        folder: The run folder. `mlflow.json` in it says which run at MLflow this is.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, artifacts: Path | None, folder: Path
    ) -> None:
        self.client = client
        record = folder / "mlflow.json"
        # The last step that MLflow has, by figure.
        self._last_steps: dict[str, int] = {}
        if record.exists():
            self.id: str = json.loads(record.read_text())["run_id"]
            client.update_run(self.id, status="RUNNING")
            for key in client.get_run(self.id).data.metrics:
                history = client.get_metric_history(self.id, key)
                self._last_steps[key] = max(metric.step for metric in history)
            return
        experiment_id = _experiment(client, experiment, artifacts)
        self.id = client.create_run(experiment_id, run_name=folder.name).info.run_id
        # Renamed into place: the file is whole, whenever the run is killed.
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps({"run_id": self.id}) + "\n")
        partial.replace(record)

    def log(self, step: int, figures: Mapping[str, float]) -> bool:
        """Log the figures of a step that are not there yet; return whether there were any."""
        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, step)
            for name, value in ((allowed_name(key), value) for key, value in figures.items())
            if step > self._last_steps.get(name, -1)
        ]
        if new:
            self.client.log_batch(self.id, metrics=new)
        return bool(new)

    def set_parameters(self, parameters: Mapping[str, str]) -> None:
        """Log parameters. One that has another value by now becomes a tag: MLflow keeps the first.

        Args:
            parameters: Values by name.
        """
        known = self.client.get_run(self.id).data.params
        new = [Param(name, value) for name, value in parameters.items() if name not in known]
        for start in range(0, len(new), PARAMETERS_PER_REQUEST):
            self.client.log_batch(self.id, params=new[start : start + PARAMETERS_PER_REQUEST])
        changed = [
            RunTag(f"resumed_with.{name}", value)
            for name, value in parameters.items()
            if known.get(name, value) != value
        ]
        self.client.log_batch(self.id, tags=changed)


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if artifacts is None else artifacts.as_uri()
        try:
            made: str = client.create_experiment(name, artifact_location=location)
        except MlflowException:
            # Another run may have made it meanwhile.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
        else:
            return made
    identifier: str = found.experiment_id
    return identifier
