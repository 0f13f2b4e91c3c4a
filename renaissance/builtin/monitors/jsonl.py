"""`metrics.jsonl` in the run folder: one JSON object per logged step or evaluation."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from renaissance import Evaluation, Monitor, RunInfo, StepReport


class JsonLines(Monitor):
    """Writes `metrics.jsonl`, with only those figures that the run spec determines: no timings."""

    @attrs.frozen
    class Options:
        """Nothing to set: plots, tests and `diff` rely on the format."""

    def run_started(self, run: RunInfo) -> None:
        """Drop the lines after the checkpoint from which the run resumes: they come again."""
        self._waiting: list[str] = []
        self._evaluated: set[tuple[float, str | None]] = set()
        path = _path(run)
        # Not a device: one that never ends could be read for ever.
        if not path.is_file():
            return
        # A line that is damaged is dropped.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step(line) <= run.start_step]
        self._evaluated = {(_step(line), json.loads(line).get("split")) for line in kept}
        # Written beside it and renamed, so that a run that is killed here loses nothing.
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w") as file:
            file.write("".join(line + "\n" for line in kept))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Write a training line."""
        rates = {f"learning_rate/{role}": rate for role, rate in report.learning_rates.items()}
        figures = {**report.metrics, **rates, "gradient_norm": report.gradient_norm}
        self._write(run, report.step, report.epoch, "train", figures)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Write an evaluation line.

        The evaluation of the checkpoint that the run resumes from may come again.
        """
        if (evaluation.step, evaluation.split) not in self._evaluated:
            epoch, split = evaluation.epoch, evaluation.split
            self._write(run, evaluation.step, epoch, split, evaluation.metrics)

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, object]) -> None:
        """Write the lines that still wait, or fail."""
        if self._waiting:
            self._append(run)

    def _write(
        self, run: RunInfo, step: int, epoch: float, split: str, figures: Mapping[str, float]
    ) -> None:
        # JSON has no NaN and no infinity.
        valid = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        record = {"step": step, "epoch": epoch, "split": split, **valid}
        num_waiting = len(self._waiting)
        self._waiting.append(json.dumps(record, allow_nan=False) + "\n")
        try:
            self._append(run)
        # The disk may have room again by the next line.
        except OSError as error:
            if not num_waiting:
                with contextlib.suppress(OSError):
                    print(f"warning: {_path(run)}: {error}; its lines wait", flush=True)

    def _append(self, run: RunInfo) -> None:
        """Append all lines that wait, or none of them."""
        data = "".join(self._waiting).encode()
        with _path(run).open("ab", buffering=0) as file:
            end = file.tell()
            try:
                # Of what does not fit, the system writes a part.
                while data:
                    data = data[file.write(data) :]
            except OSError:
                # Impossible for what is not a file.
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
        self._waiting.clear()


def _path(run: RunInfo) -> Path:
    return run.folder / "metrics.jsonl"


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # The last line of a run that was killed may be cut short.
        return float("inf")
