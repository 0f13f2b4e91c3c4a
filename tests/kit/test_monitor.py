"""Broken monitors: the kit says in words which promise is broken."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from support.sound_components import NoOptions, breaking

from renaissance import Evaluation, Monitor, RunInfo, StepReport, option
from renaissance.plugins.loading import load_plugins
from renaissance.testing import ContractError, check_monitor


class SoundMonitor(Monitor):
    """Appends what it is told to a separate file."""

    Options = NoOptions

    def run_started(self, run: RunInfo) -> None:
        write(run, f"from {run.start_step}")

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        write(run, f"{report.step}: {report.figures()}")

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        write(run, f"{evaluation.step}: {evaluation.figures()}")

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        write(run, f"{step}: {folder}")

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, Any]) -> None:
        write(run, f"{summary['step']}: {reason}")


def write(run: RunInfo, line: str) -> None:
    with (run.folder / "sound.txt").open("a") as file:
        file.write(f"{line}\n")


def when(method: str, act: Callable[..., Any]) -> type:
    """Return a monitor that acts in one of its methods."""

    def act_first(self: Any, *arguments: Any) -> None:
        act(*arguments)
        getattr(super(type(self), self), method)(*arguments)

    return breaking(SoundMonitor, **{method: act_first})


def write_into_the_current_directory(*arguments: Any) -> None:
    Path("mine.txt").write_text("x")


def write_beside_the_run(run: RunInfo, report: StepReport) -> None:
    (run.folder.parent / "all.txt").write_text("x")


def begin_a_new_file(run: RunInfo) -> None:
    (run.folder / "new.txt").open("x").close()


def forget_the_best(run: RunInfo, step: int, folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def rename_a_metric(run: RunInfo, evaluation: Evaluation) -> None:
    metrics: Any = evaluation.metrics
    metrics["accuracy"] = metrics.pop("itm/accuracy")


def draw_on_the_panel(run: RunInfo, evaluation: Evaluation) -> None:
    for entry in evaluation.panel:
        entry.image.paste((0, 0, 0), (0, 0, 9, 9))


CASES = [
    (breaking(SoundMonitor, __doc__=""), "declaration: .* Broken has no docstring"),
    (
        breaking(SoundMonitor, evaluated=lambda self, evaluation: None),
        r"Broken.evaluated\(self, evaluation\) does not take the arguments .* write "
        r"`def evaluated\(self, run, evaluation\)`",
    ),
    (
        breaking(
            SoundMonitor, Options=attrs.make_class("O", {"a": option(help="A.")}, frozen=True)
        ),
        "options: it raised TypeError: .* missing 1 required",
    ),
    (
        breaking(SoundMonitor, __init__=lambda self, options: options.missing),
        "making: it raised AttributeError",
    ),
    (
        when("run_started", write_into_the_current_directory),
        "run_started: it wrote current-directory/mine.txt, expected no files outside the run "
        "folder; write into run.folder",
    ),
    (when("step_finished", write_beside_the_run), "step_finished: it wrote runs/all.txt, expected"),
    (when("run_started", begin_a_new_file), "run_started: it raised FileExistsError: .*new.txt"),
    (
        when("run_finished", lambda run, reason, summary: summary["metrics"]["loss"]),
        "run_finished: it raised KeyError: 'loss'",
    ),
    (
        when("evaluated", lambda run, evaluation: evaluation.panel[0]),
        "evaluated: it raised IndexError",
    ),
    (
        when("checkpoint_saved", forget_the_best),
        "checkpoint_saved: it changed spec.toml or a checkpoint, which belong to the engine",
    ),
    (
        when("run_started", lambda run: (run.folder / "spec.toml").write_text("")),
        "run_started: it changed spec.toml or a checkpoint",
    ),
    (when("evaluated", rename_a_metric), "evaluated: it changed its arguments, which other"),
    (when("evaluated", draw_on_the_panel), "evaluated: it changed its arguments"),
    (
        when("step_finished", lambda run, report: random.random()),
        "step_finished: it drew from a global generator of Python, numpy or torch, but what a run "
        "computes must not depend on its monitors; make a separate generator",
    ),
    (when("step_finished", lambda run, report: np.random.rand()), "it drew from a global"),
    (when("step_finished", lambda run, report: torch.rand(())), "it drew from a global"),
]


@pytest.mark.parametrize(("monitor", "text"), CASES)
def test_broken_monitors(monitor: Any, text: str) -> None:
    with pytest.raises(ContractError, match=text) as caught:
        check_monitor(monitor)
    assert str(caught.value).startswith("monitor Broken breaks its contract:\n- ")


def test_a_sound_monitor_passes() -> None:
    check_monitor(SoundMonitor)


BUILT_IN = [
    r.component
    for r in load_plugins().registry
    if r.kind == "monitor" and r.distribution == "renaissance"
]


@pytest.mark.parametrize("monitor", BUILT_IN)
def test_builtin_monitors(monitor: Any) -> None:
    check_monitor(monitor)


def test_the_builtin_monitors_are_known() -> None:
    assert [m.__name__ for m in BUILT_IN] == ["Console", "JsonLines", "TensorBoard"]
