"""A progress bar: what is done, and the time left."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


class ProgressBar:
    """The last line of a terminal, from its creation until it is stopped.

    Args:
        console: Where it is drawn.
        unit: What is counted, such as "step".
        done: How much is done.
        total: How much there is to do.
    """

    def __init__(self, console: Console, unit: str, done: int, total: int) -> None:
        self._progress = Progress(
            TextColumn(unit, markup=False),
            MofNCompleteColumn(),
            # None: as wide as the other columns allow.
            BarColumn(bar_width=None),
            _Times(done),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, completed=done)
        self._progress.start()

    def move_to(self, done: int) -> None:
        """Show that so much is done."""
        self._progress.update(self._task, completed=done)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class _Times(ProgressColumn):
    """Elapsed time and time left, from the mean speed so far.

    rich's own columns forget what is older than half a minute, and then know no speed at all.

    Args:
        start: How much was done when the bar was made.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start, self._started = start, time.monotonic()
        self._done, self._when = start, self._started

    def render(self, task: Task) -> Text:
        now = time.monotonic()
        if task.completed != self._done:
            self._done, self._when = int(task.completed), now
        text = Text(f"{_clock(now - self._started)} left ", style="progress.elapsed")
        return text.append(self._left(task, now), style="progress.remaining")

    def _left(self, task: Task, now: float) -> str:
        if self._done <= self._start:
            return "-:--:--"
        per_step = (self._when - self._started) / (self._done - self._start)
        # It counts down between steps, too.
        left = ((task.total or 0) - self._done) * per_step - (now - self._when)
        return _clock(max(0.0, left))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
