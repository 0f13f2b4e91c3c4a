"""Lines for the user, which must not end a run."""

from contextlib import suppress


def say(text: str) -> None:
    """Print a line; if standard output is full or gone, the run goes on without."""
    with suppress(OSError):
        print(text, flush=True)
