"""Says how far a long evaluation is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from renaissance.engine.messages import say
from renaissance.progress import ProgressBar

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(
    name: str, total: int, unit: str, is_shown: bool, has_terminal: bool
) -> Iterator[Callable[[int], None]]:
    """Show the progress of what is done inside, and yield the function to call with each advance.

    Args:
        name: What is under way.
        total: How much there is to do on this rank.
        unit: What is counted, in the plural.
        is_shown: Whether to show anything; true on rank 0.
        has_terminal: Draw a bar if there is a terminal, and print lines from time to time if not.
            False in training, whose bar has the terminal already: then, lines alone.
    """
    console = Console(highlight=False)
    done = 0
    if is_shown and has_terminal and console.is_terminal:
        bar = ProgressBar(console, f"{name}: {unit}", 0, total)

        def move(step: int) -> None:
            nonlocal done
            done += step
            bar.move_to(done)

        try:
            yield move
        finally:
            bar.stop()
        return
    started = last_printed = time.monotonic()

    def print_line(step: int) -> None:
        nonlocal done, last_printed
        done += step
        now = time.monotonic()
        # A short evaluation during training says nothing: its figures follow.
        is_end = done >= total and (has_terminal or last_printed > started)
        if is_shown and (is_end or now - last_printed >= SECONDS_BETWEEN_LINES):
            last_printed = now
            rate = done / max(now - started, 1e-9)
            say(
                f"{name}: {done:,} of {total:,} {unit} on rank 0, "
                f"{rate:,.0f} {unit}/s, {(total - done) / rate:,.0f} s left"
            )

    yield print_line
