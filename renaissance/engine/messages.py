"""Lines for the user, which must not end a run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def say(text: str) -> None:
    """Print a line; if standard output is full or gone, the run goes on without."""
    with suppress(OSError):
        print(text, flush=True)


@contextmanager
def saying_if_it_takes(seconds: float, text: str) -> Iterator[None]:
    """Print a line if what is done in the context takes longer than so many seconds."""
    timer = threading.Timer(seconds, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
