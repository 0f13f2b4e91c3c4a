"""The figures of a run as a CSV file: an example of a monitor that writes a file."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from renaissance import Evaluation, Monitor, RunInfo, StepReport, hookimpl, option

# The version of the plugin interface that this package is written for.
renaissance_api = 1

HEADER = ("step", "split", "metric", "value")


def one_character(instance: Any, attribute: "attrs.Attribute[str]", value: str) -> None:
    """Validator: a text of one character."""
    if len(value) != 1:
        raise ValueError(f"got {value!r}, expected one character, such as ';'")


class CSVLog(Monitor):
    """Writes `metrics.csv`, one row per figure; the last row says how the run ended."""

    @attrs.frozen
    class Options:
        """What can be set in the run spec."""

        delimiter: str = option(
            ",",
            help="Character between values; spreadsheets of some countries expect a semicolon.",
            validator=one_character,
        )

    def __init__(self, options: Options) -> None:
        self._delimiter = options.delimiter

    def run_started(self, run: RunInfo) -> None:
        """Begin the file, or drop the rows after the checkpoint that the run resumes from."""
        path = _path(run)
        rows = self._rows(path) if path.exists() else []
        # The last row of a run that was killed may be cut short.
        whole = [row for row in rows if len(row) == len(HEADER)]
        kept = [row for row in whole if row[1] != "run" and int(row[0]) <= run.start_step]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file, delimiter=self._delimiter).writerows([HEADER, *kept])
        # Renamed into place: a run that is killed here loses nothing.
        partial.replace(path)

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Add the figures of a logged step."""
        self._append(run, report.step, "train", report.metrics)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""
        self._append(run, evaluation.step, evaluation.split, evaluation.metrics)

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Note the checkpoint."""
        self._append(run, step, "run", {"checkpoint": folder.name})

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, Any]) -> None:
        """Note how the run ended."""
        self._append(run, summary["step"], "run", {"ended": reason})

    def _rows(self, path: Path) -> list[list[str]]:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file, delimiter=self._delimiter)
        if tuple(header) != HEADER:
            raise ValueError(
                f"{path}: the first row is {header}, expected {list(HEADER)}; restore the "
                "delimiter, or move the file away"
            )
        return rows

    def _append(self, run: RunInfo, step: int, split: str, figures: Mapping[str, object]) -> None:
        with _path(run).open("a", newline="") as file:
            writer = csv.writer(file, delimiter=self._delimiter)
            writer.writerows((step, split, name, value) for name, value in figures.items())


def _path(run: RunInfo) -> Path:
    return run.folder / "metrics.csv"


@hookimpl
def register_monitors(register: Callable[[str, type[Monitor]], None]) -> None:
    """Register the monitor."""
    register("csvlog", CSVLog)
