"""The contract of monitors, and the arguments of monitors and lifecycle hooks."""

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
        batch_plan: How the samples of a step are divided, in words.
        unused_parameters: Names of parameters that no objective uses, so they are not trained.
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

    @property
    def best_checkpoint(self) -> Path | None:
        """Folder of the best checkpoint so far; None before there is one."""
        best = self.folder / "checkpoints" / "best"
        return best.resolve() if best.is_dir() else None


@attrs.frozen
class StepReport:
    """Figures of one logged step, over the steps since the previous report.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, fractional.
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        learning_rates: Learning rates by role.
        gradient_norm: Gradient norm of the last step, before clipping.
        samples_per_second: Training samples per second, over all ranks.
        data_wait: Share of the time spent waiting for data.
        peak_memory: Peak memory of this rank's device, GiB; on a CPU, the process's resident
            memory.
    """

    step: int
    epoch: float
    metrics: Mapping[str, float]
    learning_rates: Mapping[str, float]
    gradient_norm: float
    samples_per_second: float
    data_wait: float
    peak_memory: float

    def figures(self) -> dict[str, float]:
        """Return all figures by name: `train/…`, `learning_rate/…` and `run/…`."""
        return {
            **{f"train/{name}": value for name, value in self.metrics.items()},
            **{f"learning_rate/{role}": rate for role, rate in self.learning_rates.items()},
            "run/epoch": self.epoch,
            "run/gradient_norm": self.gradient_norm,
            "run/samples_per_second": self.samples_per_second,
            "run/data_wait_share": self.data_wait,
            "run/peak_memory_gib": self.peak_memory,
        }


@attrs.frozen
class Guess:
    """A line of the picture panel that says what the model guesses.

    Attributes:
        text: The guess, with its probability if it has one.
        is_right: Whether it is right, which gives its colour; None if that is not known.
    """

    text: str
    is_right: bool | None = None

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class PanelImage:
    """One image of the picture panel, and the lines below it: plain text and guesses."""

    image: Image.Image
    lines: tuple[str | Guess, ...]


@attrs.frozen
class Evaluation:
    """Figures over one split.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, fractional.
        split: Name of the split.
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        panel: The picture panel.
        pictures: Pictures of metrics by name, such as "<objective>/confusion".
    """

    step: int
    epoch: float
    split: str
    metrics: Mapping[str, float]
    panel: Sequence[PanelImage] = ()
    pictures: Mapping[str, Image.Image] = attrs.field(factory=dict)

    def figures(self) -> dict[str, float]:
        """Return all figures by name: `<split>/…`."""
        return {f"{self.split}/{name}": value for name, value in self.metrics.items()}


class Monitor(Component):
    """Shows, logs or sends what happens in a run.

    Monitors exist on rank 0 only. Override the methods that you need. An exception in a monitor
    does not end the run: it is reported once, and that monitor is not called again.

    A resumed run makes new monitors, so keep state, such as a run's id at a tracking service, in
    the run folder. If the previous process got past its last checkpoint, the steps after
    `run.start_step` are reported again.
    """

    def __init__(self, options: object) -> None: ...

    def run_started(self, run: RunInfo) -> None:
        """Called before the first step."""

    def progressed(self, run: RunInfo, step: int) -> None:
        """Called after every step, logged or not, so it must return at once."""

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Called after each logged step."""

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Called after an evaluation."""

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Called once a checkpoint is completely on disk."""

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, object]) -> None:
        """Called at the end of the run.

        Args:
            run: The run.
            reason: "finished", "stopped by SIGTERM" (or another signal) or "failed".
            summary: The last "step", and the "metrics" of the last evaluation.
        """
