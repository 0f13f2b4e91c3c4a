"""The console: a progress bar on a terminal, plain lines otherwise, rank 0 only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from renaissance import hookimpl
from renaissance.contracts.monitor import Evaluation, RunInfo, StepReport

NUM_NAMED = 4


class Console:
    """Says what happens, as it happens."""

    def __init__(self) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._bar: Any = None

    @hookimpl
    def run_started(self, run: RunInfo) -> None:
        """Say what is about to run."""
        if run.rank != 0:
            return
        verb = "resuming" if run.start_step else "starting"
        self._say(f"{verb} {run.folder}: step {run.start_step} of {run.total_steps}")
        self._say(f"{run.batch_plan}; {run.samples_per_epoch} samples an epoch")
        if run.unused_parameters:
            self._say(
                f"not trained, since no objective reads them: {_shortened(run.unused_parameters)}"
            )
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self._console,
            )
            self._bar = self._progress.add_task("", total=run.total_steps, completed=run.start_step)
            self._progress.start()

    @hookimpl
    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Show a training step."""
        figures = f"{_figures(report.metrics)}  {report.samples_per_second:.1f} samples/s"
        if self._progress is not None:
            self._progress.update(self._bar, completed=report.step, description=figures)
        else:
            self._say(
                f"step {report.step}/{run.total_steps}  {figures}  data wait {report.data_wait:.0%}"
            )

    @hookimpl
    def evaluated(self, evaluation: Evaluation) -> None:
        """Show an evaluation."""
        self._say(f"step {evaluation.step}  {evaluation.split}: {_figures(evaluation.metrics)}")

    @hookimpl
    def checkpoint_saved(self, step: int, folder: Path) -> None:
        """Say where a checkpoint is."""
        self._say(f"step {step}  saved {folder}")

    @hookimpl
    def run_finished(self, run: RunInfo, reason: str, summary: dict[str, Any]) -> None:
        """Say how it ended."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        text = f"{reason} at step {summary['step']} of {run.total_steps}: {run.folder}"
        if reason.startswith("stopped"):
            text += "; the same command goes on from here"
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _shortened(names: tuple[str, ...]) -> str:
    """Name the modules rather than each of their weights and biases."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    more = f" and {len(modules) - NUM_NAMED} more modules" if len(modules) > NUM_NAMED else ""
    return ", ".join(modules[:NUM_NAMED]) + more


plugin = Console()
