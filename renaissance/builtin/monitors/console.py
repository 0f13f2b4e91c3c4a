"""The console: one line per event, and on a terminal a progress bar below."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
from rich.console import Console as RichConsole

from renaissance import Evaluation, Monitor, ProgressBar, RunInfo, StepReport

# Modules to name before the rest is counted.
NUM_NAMED = 4
INDENT = "    "


class Console(Monitor):
    """Prints what happens; on a terminal, it also shows a progress bar with the time left."""

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)
        self._bar: ProgressBar | None = None

    def run_started(self, run: RunInfo) -> None:
        """Print what is about to run, and start the progress bar."""
        verb = "resuming" if run.start_step else "starting"
        self._say(f"{verb} {run.folder}: step {run.start_step} of {run.total_steps}")
        self._say(run.batch_plan, f"{run.samples_per_epoch} samples per epoch")
        if run.unused_parameters:
            names = _shortened(run.unused_parameters)
            self._say(f"not trained, since no objective uses them: {names}")
        if self._console.is_terminal:
            self._bar = ProgressBar(self._console, "step", run.start_step, run.total_steps)

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Print a training step."""
        speed = f"{report.samples_per_second:.1f} samples/s", f"data wait {report.data_wait:.0%}"
        self._say(f"step {report.step}/{run.total_steps}", *_figures(report.metrics), *speed)
        if self._bar is not None:
            self._bar.move_to(report.step)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Print an evaluation."""
        self._say(f"step {evaluation.step}", evaluation.split, *_figures(evaluation.metrics))

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Print where a checkpoint is."""
        self._say(f"step {step}  saved {folder}")

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, object]) -> None:
        """Print how the run ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        text = f"{reason} at step {summary['step']} of {run.total_steps}: {run.folder}"
        if reason.startswith("stopped"):
            text += "; the same command resumes from here"
        self._say(text)

    def _say(self, *pieces: str) -> None:
        """Print pieces on one line; on a terminal, wrap them to its width."""
        width = self._console.width if self._console.is_terminal else None
        for line in _lines(pieces, width):
            self._console.print(line, markup=False)


def _figures(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4f}" for name, value in metrics.items()]


def _lines(pieces: Iterable[str], width: int | None) -> list[str]:
    """Join pieces to lines of at most this width, later ones indented; None for one line."""
    first, *rest = pieces
    lines = [first]
    for piece in rest:
        longer = f"{lines[-1]}  {piece}"
        if width is None or len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(INDENT + piece)
    return lines


def _shortened(names: tuple[str, ...]) -> str:
    """Return the names of the modules rather than those of all their parameters."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    more = f" and {len(modules) - NUM_NAMED} more modules" if len(modules) > NUM_NAMED else ""
    return ", ".join(modules[:NUM_NAMED]) + more
