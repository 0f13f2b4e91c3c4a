"""SIGTERM, Ctrl-C and other requests to stop: finish the step, save, exit."""

import signal
from collections.abc import Sequence
from types import FrameType

from renaissance.launch import stop_signals

NUM_SIGNALS = 32


class StopRequest:
    """Remembers the first signal; Ctrl-C after another signal interrupts at once.

    Use it as a context manager, in the main thread.

    Attributes:
        signal: The number of the first signal; 0 if there has been none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def is_made(self) -> bool:
        """Return whether a signal came."""
        return self.signal > 0

    def one_hot(self) -> list[float]:
        """Return the signal as a vector that ranks can add up: 1 at its number, else 0."""
        return [float(number == self.signal and number > 0) for number in range(NUM_SIGNALS)]

    def _note(self, number: int, frame: FrameType | None) -> None:
        # torchrun forwards Ctrl-C, so SIGINT may come twice for one keystroke: only a SIGINT after
        # another signal interrupts.
        if self.signal and number == signal.SIGINT and self.signal != number:
            raise KeyboardInterrupt
        self.signal = self.signal or number


def largest_signal(counts: Sequence[float]) -> int:
    """Return the largest signal that any rank got, so that all ranks stop at the same step.

    Args:
        counts: The sum of all ranks' `StopRequest.one_hot`.
    """
    return max((number for number, count in enumerate(counts) if count), default=0)
