"""Reports the events of a run: to its monitors first, then to the lifecycle hooks."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pluggy

from renaissance.contracts.monitor import Evaluation, Monitor, RunInfo, StepReport
from renaissance.errors import printed


class Observers:
    """The monitors and hooks that follow a run.

    They are called on rank 0 only, except for the hook `run_started`, which is called on every
    rank. A monitor that fails must not end the run: the failure is printed, and the monitor is not
    called again. A hook that fails is an error.

    Args:
        monitors: The monitors of the run; empty on ranks other than 0.
        hooks: The hooks of all plugins.
    """

    def __init__(self, monitors: Sequence[Monitor], hooks: pluggy.HookRelay) -> None:
        self._monitors = tuple(monitors)
        self._hooks = hooks

    def run_started(self, run: RunInfo) -> None:
        """Report the start, before the first step; call on every rank."""
        self._tell("run_started", run.start_step, lambda monitor: monitor.run_started(run))
        self._hooks.run_started(run=run)

    def progressed(self, run: RunInfo, step: int) -> None:
        """Tell the monitors that a step is done; call on rank 0."""
        self._tell("progressed", step, lambda monitor: monitor.progressed(run, step))

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Report a logged step; call on rank 0."""
        self._tell("step_finished", report.step, lambda monitor: monitor.step_finished(run, report))
        self._hooks.step_finished(run=run, report=report)

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Report an evaluation; call on rank 0."""
        self._tell("evaluated", evaluation.step, lambda monitor: monitor.evaluated(run, evaluation))
        self._hooks.evaluated(run=run, evaluation=evaluation)

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Report that a checkpoint is complete on disk; call on rank 0."""
        self._tell(
            "checkpoint_saved", step, lambda monitor: monitor.checkpoint_saved(run, step, folder)
        )
        self._hooks.checkpoint_saved(run=run, step=step, folder=folder)

    def run_finished(self, run: RunInfo, reason: str, summary: dict[str, Any]) -> None:
        """Report how the run ended; call on rank 0."""
        self._tell(
            "run_finished",
            summary["step"],
            lambda monitor: monitor.run_finished(run, reason, summary),
        )
        self._hooks.run_finished(run=run, reason=reason, summary=summary)

    def _tell(self, method: str, step: int, call: Callable[[Monitor], None]) -> None:
        for monitor in self._monitors:
            try:
                call(monitor)
            # Any failure: weeks of training must not end because the quota of a service is used up.
            except Exception as error:
                self._monitors = tuple(m for m in self._monitors if m is not monitor)
                # The monitor may have failed because the terminal is gone.
                with suppress(OSError):
                    print(_failure(monitor, method, step, error), file=sys.stderr, flush=True)


def _failure(monitor: Monitor, method: str, step: int, error: Exception) -> str:
    cause = " ".join(printed(error).split())
    component = type(monitor)
    return (
        f"monitor {component.__name__} ({component.__module__}): {method} failed at step {step}: "
        f"{type(error).__name__}: {cause}; it is switched off, and the run continues. To switch it "
        "on again, fix the cause, stop the run, and start it again with the same command; or "
        "remove it from [[monitors]]"
    )
