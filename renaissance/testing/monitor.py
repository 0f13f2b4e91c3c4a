"""The contract of monitors."""

import random
import tempfile
from collections.abc import Callable
from contextlib import chdir
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from renaissance.contracts.monitor import Monitor, RunInfo
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.made_up_run import (
    make_evaluation,
    make_run_info,
    make_step_report,
    write_checkpoint,
)


def check_monitor(component: type[Monitor], options: object = None) -> None:
    """Check a monitor against its contract, in three short runs.

    The first is stopped, the second resumes it from an earlier step, the third fails before its
    first step. The monitor may write files only into the run folder.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("monitor", component)
    check.declaration()
    options = check.options(options)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "current-directory").mkdir()
        with chdir(root / "current-directory"):
            for play in (_play_stopped, _play_resumed, _play_failed):
                with check.part("making"):
                    monitor = check.make(options)
                check.stop_if_broken()
                play(Audience(check, monitor, root))
                check.stop_if_broken()


class Audience:
    """Calls a monitor under check, and checks what each call does.

    Args:
        check: Collects violations.
        monitor: The monitor.
        root: Folder of all runs and of the current directory.
    """

    def __init__(self, check: ContractCheck[Monitor], monitor: Monitor, root: Path) -> None:
        self._check = check
        self._monitor = monitor
        self._root = root
        self._files = _files(root)

    def start(self, name: str, start_step: int = 0) -> RunInfo:
        """Start a run."""
        run = make_run_info(self._root / "runs" / name, start_step)
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "spec.toml").write_text(run.spec_text)
        self._tell("run_started", run)
        return run

    def step(self, run: RunInfo, step: int) -> None:
        """Log a step, after another that is not logged."""
        for done in (step - 1, step):
            self._tell("progressed", run, done)
        self._tell("step_finished", run, make_step_report(step))

    def evaluate(self, run: RunInfo, step: int, num_images: int) -> None:
        """Evaluate."""
        self._tell("evaluated", run, make_evaluation(step, num_images))

    def save(self, run: RunInfo, step: int) -> None:
        """Save a checkpoint."""
        self._tell("checkpoint_saved", run, step, write_checkpoint(run, step))

    def finish(self, run: RunInfo, reason: str, step: int) -> None:
        """End a run."""
        metrics = dict(make_evaluation(step).metrics) if step else {}
        self._tell("run_finished", run, reason, {"step": step, "metrics": metrics})

    def _tell(self, method: str, run: RunInfo, *arguments: object) -> None:
        before, random_state = deepcopy((run, *arguments)), _random_state()
        engine_files = _engine_files(run)
        with self._check.part(method):
            call: Callable[..., None] = getattr(self._monitor, method)
            call(run, *arguments)
            require(
                (run, *arguments) == before,
                "it changed its arguments, which other monitors get too; change a copy",
            )
            require(
                _random_state() == random_state,
                "it drew from a global generator of Python, numpy or torch, but what a run "
                "computes must not depend on its monitors; make a separate generator",
            )
            require(
                _engine_files(run) == engine_files,
                "it changed spec.toml or a checkpoint, which belong to the engine; write other "
                "files",
            )
            outside = sorted(_files(self._root) - self._files - _files(run.folder))
            require(
                not outside,
                f"it wrote {', '.join(str(p.relative_to(self._root)) for p in outside[:3])}, "
                "expected no files outside the run folder; write into run.folder",
            )


def _play_stopped(audience: Audience) -> None:
    run = audience.start("check")
    audience.step(run, 2)
    audience.evaluate(run, 2, num_images=2)
    audience.save(run, 2)
    audience.step(run, 4)
    audience.evaluate(run, 4, num_images=0)
    audience.step(run, 6)
    audience.finish(run, "stopped by SIGTERM", 6)


def _play_resumed(audience: Audience) -> None:
    run = audience.start("check", start_step=2)
    for step in (4, 6, 8):
        audience.step(run, step)
        audience.evaluate(run, step, num_images=1)
    audience.save(run, 8)
    audience.finish(run, "finished", 8)


def _play_failed(audience: Audience) -> None:
    run = audience.start("failed")
    audience.finish(run, "failed", 0)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _engine_files(run: RunInfo) -> dict[Path, bytes]:
    """Return the contents of the files in the run folder that belong to the engine."""
    paths = {run.folder / "spec.toml", *_files(run.folder / "checkpoints")}
    return {path: path.read_bytes() for path in paths if path.is_file()}


def _random_state() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state(legacy=False)
    drawn = (numpy["state"]["key"].tobytes(), numpy["state"]["pos"])
    return (random.getstate(), drawn, torch.get_rng_state().numpy().tobytes())
