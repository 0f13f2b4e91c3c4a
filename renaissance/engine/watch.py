"""Ends a rank whose work never ends: a peer is gone without a word, or a call hangs.

Each rank watches itself, from a thread, and so needs no other rank to be told.
"""

import math
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

import attrs

from renaissance.engine.distributed import TIMEOUT
from renaissance.launch import name_of_process, tell_launcher

# Without a train.step_timeout: this many times the median of the last steps, but at least 10
# minutes, which a storage that is slow for a while may take. So long may a part of an evaluation
# take in any case.
MULTIPLE = 50
LEAST_SECONDS = 600.0
NUM_STEPS = 100
POLL_SECONDS = 0.5
NUM_FRAMES = 10
# Seconds in which the other ranks say the same of themselves: this one's end would end them first.
GRACE_SECONDS = 3.0


@attrs.define
class Pulse:
    """Work of this rank, which must go on.

    Attributes:
        fault: What to say if it does not.
        limit: Seconds that may pass between two beats.
        thread: How the name of the thread begins that does the work.
        since: When it last went on; infinite while it waits for other ranks.
    """

    fault: str = ""
    limit: float = math.inf
    thread: str = "MainThread"
    since: float = math.inf

    def beat(self) -> None:
        """Say that the work goes on."""
        self.since = time.monotonic()

    def rest(self) -> None:
        """Say that other ranks are awaited, until the next beat."""
        self.since = math.inf

    @property
    def is_late(self) -> bool:
        """Whether the work does not go on."""
        return time.monotonic() - self.since > self.limit


class StepWatch:
    """Ends this process when a training step, or what is due after it, does not go on.

    The first step may take as long as the start, since it may compile.

    Args:
        timeout: `train.step_timeout`.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._seconds: deque[float] = deque(maxlen=NUM_STEPS)
        self._pulse: Pulse | None = None
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
        with self._watched(Pulse(f"step {step} has not ended", self.limit())) as pulse:
            yield
            self._seconds.append(time.monotonic() - pulse.since)

    @contextmanager
    def going_on(
        self, fault: str, thread: str = "MainThread", more_seconds: float = 0.0
    ) -> Iterator[Pulse]:
        """Watch what may take any time as long as it goes on, which whoever does it must say.

        The time of the step that it belongs to begins anew after it.

        Args:
            fault: What to say if it does not go on.
            thread: How the name of the thread begins that does it.
            more_seconds: To add to those that a step, or a slow storage, may take.
        """
        limit = max(LEAST_SECONDS, self.limit()) + more_seconds
        with self._watched(Pulse(fault, limit, thread)) as pulse:
            yield pulse

    @contextmanager
    def _watched(self, pulse: Pulse) -> Iterator[Pulse]:
        outer, self._pulse = self._pulse, pulse
        pulse.beat()
        try:
            yield pulse
        finally:
            self._pulse = outer
            if outer is not None and outer.since < math.inf:
                outer.beat()

    def limit(self) -> float:
        """Return how many seconds the next step may take."""
        if not self._seconds:
            return max(TIMEOUT.total_seconds(), self._timeout or 0.0)
        if self._timeout is not None:
            return self._timeout
        return max(LEAST_SECONDS, MULTIPLE * statistics.median(self._seconds))

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            pulse = self._pulse
            if pulse is not None and pulse.is_late:
                _leave(pulse)


def _leave(pulse: Pulse) -> NoReturn:
    frames = sys._current_frames()
    found = [t.ident for t in threading.enumerate() if t.name.startswith(pulse.thread)]
    frame = next((frames[ident] for ident in found if ident in frames), None)
    stack = "".join(traceback.format_stack(frame)[-NUM_FRAMES:])
    message = (
        f"{name_of_process()}: {pulse.fault} in {pulse.limit:.0f} s; another rank or the network "
        "may be gone, or the storage hangs. The same command resumes from the last checkpoint; if "
        "that is normal, raise train.step_timeout"
    )
    print(f"error: {message}\nIt waits here:\n{stack}", file=sys.stderr, end="", flush=True)
    tell_launcher(message)
    time.sleep(GRACE_SECONDS)
    # The main thread cannot be interrupted: it waits outside of Python.
    os._exit(1)
