"""Whom a run tells what happens: monitors first, then hooks; a failing monitor costs no run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from renaissance import Monitor, hookimpl
from renaissance.engine.observers import Observers
from renaissance.plugins.loading import new_manager
from renaissance.testing.made_up_run import make_evaluation, make_run_info, make_step_report

RUN = make_run_info(Path("runs/made-up"), start_step=2)
SUMMARY = {"step": 8, "metrics": {"loss": 0.5}}
# What is told, with its arguments, in the order of a run.
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("run_started", (RUN,)),
    ("step_finished", (RUN, make_step_report(4))),
    ("evaluated", (RUN, make_evaluation(4))),
    ("checkpoint_saved", (RUN, 4, Path("step-00000004"))),
    ("run_finished", (RUN, "finished", SUMMARY)),
]
METHODS = [method for method, _ in CALLS]


def recording(heard: list[tuple[Any, ...]], name: str) -> Monitor:
    """Return a monitor that notes each call."""

    def record(method: str) -> Callable[..., None]:
        return lambda self, *arguments: heard.append((name, method, arguments))

    made: type[Monitor] = type("Recording", (Monitor,), {m: record(m) for m in METHODS})
    return made(None)


def failing(method: str, error: BaseException, heard: list[tuple[Any, ...]]) -> Monitor:
    """Return a monitor that fails in one of its methods, and notes the others."""

    def fail(*arguments: Any) -> None:
        raise error

    monitor = recording(heard, "failing")
    setattr(type(monitor), method, fail)
    return monitor


def hooks_of(*plugins: Any) -> Any:
    manager = new_manager()
    for plugin in plugins:
        manager.register(plugin)
    return manager.hook


class Listening:
    """A plugin with all lifecycle hooks."""

    def __init__(self, heard: list[tuple[Any, ...]]) -> None:
        self.heard = heard

    @hookimpl
    def run_started(self, run: Any) -> None:
        self.heard.append(("hook", "run_started", (run,)))

    @hookimpl
    def step_finished(self, run: Any, report: Any) -> None:
        self.heard.append(("hook", "step_finished", (run, report)))

    @hookimpl
    def evaluated(self, run: Any, evaluation: Any) -> None:
        self.heard.append(("hook", "evaluated", (run, evaluation)))

    @hookimpl
    def checkpoint_saved(self, run: Any, step: Any, folder: Any) -> None:
        self.heard.append(("hook", "checkpoint_saved", (run, step, folder)))

    @hookimpl
    def run_finished(self, run: Any, reason: Any, summary: Any) -> None:
        self.heard.append(("hook", "run_finished", (run, reason, summary)))


def tell_everything(observers: Observers) -> None:
    for method, arguments in CALLS:
        getattr(observers, method)(*arguments)


def test_monitors_are_told_in_their_order_and_before_hooks() -> None:
    heard: list[tuple[Any, ...]] = []
    monitors = [recording(heard, "first"), recording(heard, "second")]
    tell_everything(Observers(monitors, hooks_of(Listening(heard))))
    assert heard == [
        (name, method, arguments)
        for method, arguments in CALLS
        for name in ("first", "second", "hook")
    ]


def test_without_monitors_hooks_are_told() -> None:
    heard: list[tuple[Any, ...]] = []
    tell_everything(Observers((), hooks_of(Listening(heard))))
    assert [method for _, method, _ in heard] == METHODS


@pytest.mark.parametrize(("method", "step"), zip(METHODS, (2, 4, 4, 4, 8), strict=True))
def test_a_failing_monitor_is_reported_once_and_switched_off(
    method: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[Any, ...]] = []
    broken = failing(method, OSError("no space\nleft on device"), heard)
    monitors = [recording(heard, "first"), broken, recording(heard, "last")]
    observers = Observers(monitors, hooks_of(Listening(heard)))
    tell_everything(observers)
    observers.run_finished(*CALLS[-1][1])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"monitor Recording ({__name__}): {method} failed at step {step}: OSError: no space "
        "left on device; it is switched off, and the run continues. To switch it on again, fix "
        "the cause, stop the run, and start it again with the same command; or remove it "
        "from [[monitors]]\n"
    )
    # It heard what came before, the others heard everything.
    told = {name: [m for n, m, _ in heard if n == name] for name in ("first", "last", "hook")}
    assert told == {name: [*METHODS, "run_finished"] for name in told}
    assert [m for n, m, _ in heard if n == "failing"] == METHODS[: METHODS.index(method)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_passes(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    observers = Observers([failing("evaluated", error, [])], hooks_of())
    with pytest.raises(type(error)):
        observers.evaluated(*CALLS[2][1])
    assert capsys.readouterr().err == ""


def test_a_failing_hook_is_an_error() -> None:
    class Failing:
        @hookimpl
        def step_finished(self) -> None:
            raise ValueError("on purpose")

    heard: list[tuple[Any, ...]] = []
    observers = Observers([recording(heard, "first")], hooks_of(Failing()))
    with pytest.raises(ValueError, match="on purpose"):
        observers.step_finished(*CALLS[1][1])
    assert [method for _, method, _ in heard] == ["step_finished"]


def test_a_closed_terminal_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    heard: list[tuple[Any, ...]] = []
    broken = failing("run_started", BrokenPipeError(), heard)
    monkeypatch.setattr("sys.stderr", Closed())
    tell_everything(Observers([broken, recording(heard, "last")], hooks_of()))
    assert [method for name, method, _ in heard if name == "last"] == METHODS
