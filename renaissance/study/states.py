"""How far the runs of a study are, read from their folders alone."""

from pathlib import Path
from typing import Literal, TypeAlias

import attrs
import tomli

from renaissance.engine.run_folder import RunFolder
from renaissance.files import read_json
from renaissance.study.cells import Cell
from renaissance.study.results import read_figures

State: TypeAlias = Literal["finished", "trained", "failed", "unfinished", "absent"]

# What the last command of a run printed, and how it ended if it failed.
LOG, FAILURE = "study.log", "study.failed.json"


@attrs.frozen
class Progress:
    """How far a run is.

    Attributes:
        state: finished: trained and evaluated; trained: not yet evaluated; failed: its last
            command failed; unfinished: it goes on from its last checkpoint, or from the start.
        step: Step of the last checkpoint; 0 if there is none.
        total_steps: Steps of the whole run; None if it has not started.
    """

    state: State
    step: int
    total_steps: int | None


def progress_of(cell: Cell, split: str) -> Progress:
    """Return how far a run is.

    Args:
        cell: The run.
        split: The split that it is evaluated on.
    """
    run = RunFolder(cell.folder)
    total = _total_steps(run.spec)
    step = 0 if run.last is None else int(run.last.name.removeprefix("step-"))
    return Progress(_state(cell.folder, step, total, split), step, total)


def _state(folder: Path, step: int, total: int | None, split: str) -> State:
    is_trained = total is not None and step >= total
    if is_trained and read_figures(folder, split):
        return "finished"
    if (folder / FAILURE).is_file():
        return "failed"
    if is_trained:
        return "trained"
    return "unfinished" if folder.is_dir() else "absent"


def failure_of(folder: Path) -> str:
    """Return what failed in a run, in words; empty if nothing did."""
    record = read_json(folder / FAILURE)
    return f"{record.get('command')} ended with {record.get('code')}" if record else ""


def _total_steps(spec: Path) -> int | None:
    try:
        steps = tomli.loads(spec.read_text())["train"]["max_steps"]
    except (OSError, ValueError, KeyError):
        return None
    return steps if isinstance(steps, int) else None
