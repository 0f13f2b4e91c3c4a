"""The hooks: one per kind to register components, and five that follow a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from renaissance.contracts.dataset import Dataset
    from renaissance.contracts.encoder import Encoder
    from renaissance.contracts.fusion import Fusion
    from renaissance.contracts.head import Head
    from renaissance.contracts.monitor import Evaluation, Monitor, RunInfo, StepReport
    from renaissance.contracts.objective import Objective
    from renaissance.contracts.optimizer import Optimizer
    from renaissance.contracts.pooler import Pooler
    from renaissance.contracts.source import Source
    from renaissance.contracts.transform import Transform

hookspec = pluggy.HookspecMarker("renaissance")
hookimpl = pluggy.HookimplMarker("renaissance")


@hookspec
def register_encoders(register: "Callable[[str, type[Encoder]], None]") -> None:
    """Register encoders: `register("my-encoder", MyEncoder)`."""


@hookspec
def register_poolers(register: "Callable[[str, type[Pooler]], None]") -> None:
    """Register poolers."""


@hookspec
def register_fusions(register: "Callable[[str, type[Fusion]], None]") -> None:
    """Register fusion modules."""


@hookspec
def register_objectives(register: "Callable[[str, type[Objective]], None]") -> None:
    """Register objectives."""


@hookspec
def register_datasets(register: "Callable[[str, type[Dataset]], None]") -> None:
    """Register datasets."""


@hookspec
def register_heads(register: "Callable[[str, type[Head]], None]") -> None:
    """Register heads."""


@hookspec
def register_monitors(register: "Callable[[str, type[Monitor]], None]") -> None:
    """Register monitors."""


@hookspec
def register_transforms(register: "Callable[[str, type[Transform]], None]") -> None:
    """Register image transforms."""


@hookspec
def register_optimizers(register: "Callable[[str, type[Optimizer]], None]") -> None:
    """Register optimizers."""


@hookspec
def register_sources(register: "Callable[[str, type[Source]], None]") -> None:
    """Register sources for `renaissance data prepare`."""


@hookspec
def run_started(run: "RunInfo") -> None:
    """Called on every rank before the first step."""


@hookspec
def step_finished(run: "RunInfo", report: "StepReport") -> None:
    """Called on rank 0 after each logged step."""


@hookspec
def evaluated(run: "RunInfo", evaluation: "Evaluation") -> None:
    """Called on rank 0 after an evaluation."""


@hookspec
def checkpoint_saved(run: "RunInfo", step: int, folder: Path) -> None:
    """Called on rank 0 once a checkpoint is complete on disk."""


@hookspec
def run_finished(run: "RunInfo", reason: str, summary: dict[str, Any]) -> None:
    """Called on rank 0 at the end: reason is "finished", "stopped by SIGTERM" or "failed"."""
