"""What lifecycle hooks are told."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from PIL import Image

from renaissance.spec.sections import RunSpec


@attrs.frozen
class RunInfo:
    """The run that is under way.

    Attributes:
        spec: The resolved run spec.
        spec_text: The same as TOML.
        folder: The run folder.
        rank: This process's rank.
        world_size: Number of ranks.
        start_step: Step that the run starts from (0 unless resumed).
        total_steps: Step that it ends with.
        samples_per_epoch: Size of the training data.
        batch_plan: How a step's samples are divided, in words.
        unread_parameters: Parameters that no objective reads, which are therefore not trained.
    """

    spec: RunSpec
    spec_text: str
    folder: Path
    rank: int
    world_size: int
    start_step: int
    total_steps: int
    samples_per_epoch: int
    batch_plan: str
    unread_parameters: tuple[str, ...] = ()


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
