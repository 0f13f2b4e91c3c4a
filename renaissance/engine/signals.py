"""SIGTERM and Ctrl-C: finish the step, save, leave."""

import signal
from types import FrameType

# What a scheduler sends before it preempts a job, and Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes the first signal; a second one interrupts at once.

    Use as a context manager, in the main thread.

    Attributes:
        signal: The signal's number, 0 while there was none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        # torchrun passes Ctrl-C on, so the same signal may come twice: only a later, different
        # wish to leave (Ctrl-C after a checkpoint began) interrupts.
        if self.signal and number == signal.SIGINT and self.signal != number:
            raise KeyboardInterrupt
        self.signal = self.signal or number
