"""The console: one line per event, and on a terminal a progress bar below."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
from rich.console import Console as RichConsole
from rich.text import Text

from renaissance import Evaluation, Monitor, ProgressBar, RunInfo, StepReport

# Modules to name before the rest is counted.
NUM_NAMED = 4
INDENT = "    "


class _Printing(RichConsole):
    """Falls silent where nobody reads any more, as after `| head`; rich would end the run."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


class Console(Monitor):
    """Prints what happens; on a terminal, it also shows a progress bar with the time left."""

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options) -> None:
        self._console = _Printing(highlight=False, soft_wrap=True)
        self._bar: ProgressBar | None = None

    def run_started(self, run: RunInfo) -> None:
        """Print what is about to run, and start the progress bar."""
        verb = "resuming" if run.start_step else "starting"
        self._say(f"{verb} {run.folder}: step {run.start_step} of {run.total_steps}")
        self._say(f"{run.batch_plan}  {run.samples_per_epoch} samples per epoch")
        if run.unused_parameters:
            names = _shortened(run.unused_parameters)
            self._say(f"not trained, since no objective uses them: {names}")
        if self._console.is_terminal:
            self._bar = ProgressBar(self._console, "step", run.start_step, run.total_steps)

    def progressed(self, run: RunInfo, step: int) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.move_to(step)

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Print a training step."""
        pad = 7 if self._console.is_terminal else 0
        speed = f"{report.samples_per_second:{pad}.1f} samples/s"
        figures = [*self._figures(report.metrics), speed, f"data wait {report.data_wait:.0%}"]
        self._say_figures(run, report.step, "train", figures)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Print an evaluation."""
        figures = self._figures(evaluation.metrics)
        self._say_figures(run, evaluation.step, evaluation.split, figures, style="bold")

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Print where a checkpoint is."""
        self._say(f"step {step}  saved {folder}", style="dim")

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, object]) -> None:
        """Print how the run ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        text = f"{reason} at step {summary['step']} of {run.total_steps}: {run.folder}"
        if reason.startswith("stopped"):
            text += "; the same command resumes from here"
        self._say(text, style="bold" if reason == "finished" else "bold yellow")

    def _say(self, text: str, style: str | None = None) -> None:
        """Print a line; on a terminal, wrap it at words."""
        self._console.print(Text(text), style=style, soft_wrap=not self._console.is_terminal)

    def _say_figures(
        self,
        run: RunInfo,
        step: int,
        split: str,
        figures: Sequence[str],
        style: str | None = None,
    ) -> None:
        """Print the figures of a step; on a terminal, in columns."""
        # As wide as the longest, so that the lines of all steps are aligned.
        done = f"step {step:>{len(str(run.total_steps))}}/{run.total_steps}"
        head = f"{done}  {split:<8}"
        width = self._console.width if self._console.is_terminal else None
        for line in _lines(head, figures, width):
            text = Text(line, style=style or "")
            text.highlight_words([head], "cyan" if style is None else "bold green")
            self._console.print(text, soft_wrap=True)

    def _figures(self, metrics: Mapping[str, float]) -> list[str]:
        # A loss above 10 must not move the columns.
        pad = 7 if self._console.is_terminal else 0
        return [f"{name} {value:{pad}.4f}" for name, value in metrics.items()]


def _lines(head: str, figures: Sequence[str], width: int | None) -> list[str]:
    """Join figures to lines: one if it fits into this width, or else columns below the head."""
    line = "  ".join([head, *figures])
    if width is None or len(line) <= width:
        return [line]
    column = max(map(len, figures))
    per_line = max(1, (width - len(INDENT) + 2) // (column + 2))
    cells = [figure.ljust(column) for figure in figures]
    rows = [cells[start : start + per_line] for start in range(0, len(cells), per_line)]
    return [head, *(f"{INDENT}{'  '.join(row)}".rstrip() for row in rows)]


def _shortened(names: tuple[str, ...]) -> str:
    """Return the names of the modules rather than those of all their parameters."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    more = f" and {len(modules) - NUM_NAMED} more modules" if len(modules) > NUM_NAMED else ""
    return ", ".join(modules[:NUM_NAMED]) + more
