"""The figures of a run as a CSV file: an example of the lifecycle hooks."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from renaissance import hookimpl
from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport

# The version of the plugin interface that this package is written for.
renaissance_api = 1

HEADER = ("step", "split", "metric", "value")


class CSVLog:
    """Writes `metrics.csv`, one row a figure; ends with how the run ended."""

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        """Begin the file, or drop the rows after the checkpoint that the run resumes from."""
        # This hook is called on every rank; the others on rank 0.
        if run.rank != 0:
            return
        path = _path(run)
        kept = []
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            kept = [row for row in rows if row[1] != "run" and int(row[0]) <= run.start_step]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *kept])

    @hookimpl
    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Add the figures of a logged step."""
        _append(run, report.step, "train", report.metrics)

    @hookimpl
    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""
        _append(run, evaluation.step, evaluation.split, evaluation.metrics)

    @hookimpl
    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Note the checkpoint."""
        _append(run, step, "run", {"checkpoint": folder.name})

    @hookimpl
    def run_finished(self, run: RunInfo, reason: str, summary: dict[str, Any]) -> None:
        """Note how the run ended."""
        _append(run, summary["step"], "run", {"ended": reason})


def _path(run: RunInfo) -> Path:
    return run.folder / "metrics.csv"


def _append(run: RunInfo, step: int, split: str, figures: Mapping[str, object]) -> None:
    with _path(run).open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows((step, split, name, value) for name, value in figures.items())


plugin = CSVLog()
