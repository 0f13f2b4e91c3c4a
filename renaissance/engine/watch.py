"""Ends a rank whose step never ends: a peer is gone without a word, or a call hangs.

Each rank watches itself, from a thread, and so needs no other rank to be told.
"""

import os
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from renaissance.engine.distributed import TIMEOUT
from renaissance.launch import name_of_process, tell_launcher

# Without a train.step_timeout: this many times the median of the last steps, but at least 10
# minutes, which a storage that is slow for a while may take.
MULTIPLE = 50
LEAST_SECONDS = 600.0
NUM_STEPS = 100
POLL_SECONDS = 0.5
NUM_FRAMES = 10
# Seconds in which the other ranks say the same of themselves: this one's end would end them first.
GRACE_SECONDS = 3.0


class StepWatch:
    """Ends this process when a training step takes too long.

    The first step may take as long as the start, since it may compile.

    Args:
        timeout: `train.step_timeout`.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._seconds: deque[float] = deque(maxlen=NUM_STEPS)
        # The step that is under way, and when it is to be over.
        self._step: tuple[int, float, float] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "StepWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Watch one step, counted from 1, and what is due after it."""
        self._step = (step, time.monotonic(), self.limit())
        try:
            yield
            self._seconds.append(time.monotonic() - self._step[1])
        finally:
            self._step = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do what may take any time; the step's own time begins anew after it."""
        step, self._step = self._step, None
        try:
            yield
        finally:
            if step is not None:
                self._step = (step[0], time.monotonic(), step[2])

    def limit(self) -> float:
        """Return how many seconds the next step may take."""
        if not self._seconds:
            return max(TIMEOUT.total_seconds(), self._timeout or 0.0)
        if self._timeout is not None:
            return self._timeout
        return max(LEAST_SECONDS, MULTIPLE * statistics.median(self._seconds))

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            step = self._step
            if step is not None and time.monotonic() - step[1] > step[2]:
                _leave(step[0], step[2])


def _leave(step: int, limit: float) -> NoReturn:
    main = threading.main_thread().ident
    frame = None if main is None else sys._current_frames().get(main)
    stack = "".join(traceback.format_stack(frame)[-NUM_FRAMES:])
    message = (
        f"{name_of_process()}: step {step} has not ended in {limit:.0f} s; another rank or the "
        "network may be gone, or the storage hangs. The same command resumes from the last "
        "checkpoint; if such a step is normal, raise train.step_timeout"
    )
    print(f"error: {message}\nIt waits here:\n{stack}", file=sys.stderr, end="", flush=True)
    tell_launcher(message)
    time.sleep(GRACE_SECONDS)
    # The main thread cannot be interrupted: it waits outside of Python.
    os._exit(1)
