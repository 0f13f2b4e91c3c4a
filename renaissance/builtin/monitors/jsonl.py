"""`metrics.jsonl` in the run folder: one JSON object a logged step or evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path

from renaissance import hookimpl
from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport


class JsonLines:
    """Writes figures that depend on the run spec alone (no timings), for people who plot."""

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        """Drop the lines after the checkpoint that the run resumes from: they come again."""
        path = self._path(run)
        if run.rank != 0 or not path.exists():
            return
        lines = path.read_text().splitlines()
        kept = [line for line in lines if _step(line) <= run.start_step]
        path.write_text("".join(line + "\n" for line in kept))

    @hookimpl
    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Write a training line."""
        rates = {f"learning_rate/{name}": rate for name, rate in report.learning_rates.items()}
        figures = {**report.metrics, **rates, "gradient_norm": report.gradient_norm}
        self._write(run, report.step, report.epoch, "train", figures)

    @hookimpl
    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Write an evaluation line."""
        self._write(run, evaluation.step, evaluation.epoch, evaluation.split, evaluation.metrics)

    def _write(
        self, run: RunInfo, step: int, epoch: float, split: str, figures: Mapping[str, float]
    ) -> None:
        record = {"step": step, "epoch": epoch, "split": split, **figures}
        with self._path(run).open("a") as file:
            file.write(json.dumps(record) + "\n")

    @staticmethod
    def _path(run: RunInfo) -> Path:
        return run.folder / "metrics.jsonl"


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        # The last line of a run that was killed may be cut short.
        return float("inf")


plugin = JsonLines()
