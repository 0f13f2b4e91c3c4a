"""The contract of monitors, and what monitors and lifecycle hooks are told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from PIL import Image

from renaissance.contracts.component import Component


@attrs.frozen
class RunInfo:
    """The run that is under way.

    Attributes:
        spec: The resolved run spec as nested tables, as in `spec.toml`.
        spec_text: The same as TOML.
        folder: The run folder.
        rank: This process's rank.
        world_size: Number of ranks.
        start_step: Step that the run starts from (0 unless resumed).
        total_steps: Step that it ends with.
        samples_per_epoch: Size of the training data.
        batch_plan: How a step's samples are divided, in words.
        unused_parameters: Parameters that no objective reads, which are therefore not trained.
    """

    spec: Mapping[str, Any]
    spec_text: str
    folder: Path
    rank: int
    world_size: int
    start_step: int
    total_steps: int
    samples_per_epoch: int
    batch_plan: str
    unused_parameters: tuple[str, ...] = ()


@attrs.frozen
class StepReport:
    """A logged training step: figures over the steps since the one before.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, a fraction.
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        learning_rates: By parameter group.
        gradient_norm: Before clipping, of the last step.
        samples_per_second: Over all ranks.
        data_wait: Share of the time spent waiting for data.
        peak_memory: GiB on this rank's device (resident memory of the process on CPU).
    """

    step: int
    epoch: float
    metrics: Mapping[str, float]
    learning_rates: Mapping[str, float]
    gradient_norm: float
    samples_per_second: float
    data_wait: float
    peak_memory: float


@attrs.frozen
class PanelImage:
    """One image of the picture panel, with its lines of text."""

    image: Image.Image
    lines: tuple[str, ...]


@attrs.frozen
class Evaluation:
    """Figures over one split.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, a fraction.
        split: Name of the split.
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        panel: The picture panel.
    """

    step: int
    epoch: float
    split: str
    metrics: Mapping[str, float]
    panel: Sequence[PanelImage] = ()


class Monitor(Component):
    """Is told what happens in a run, on rank 0: to show it, to log it, to send it somewhere.

    The methods are called as the lifecycle hooks of the same names are. Override those that are
    of interest. A resumed run makes new monitors: what they must remember, such as the identifier
    of a run at a service, belongs into the run folder.
    """

    def __init__(self, options: Any) -> None: ...

    def run_started(self, run: RunInfo) -> None:
        """Called before the first step."""

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Called after each logged step."""

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Called after an evaluation."""

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Called once a checkpoint is whole on disk."""

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, Any]) -> None:
        """Called at the end: reason is "finished", "stopped by SIGTERM" or "failed"."""
