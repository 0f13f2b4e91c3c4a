"""The components that a run spec chooses, each with its registration and its options.

In TOML, one table holds `type`, the component's options, and the shared keys: the further fields of
a choice, such as `frozen` or `weight`, which every component of the kind has.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import attrs

from renaissance.options import fraction, non_negative, option, positive
from renaissance.plugins.kinds import Kind
from renaissance.plugins.registry import Registration
from renaissance.spec.derived import derived
from renaissance.spec.validators import (
    above_zero,
    frozen_part,
    log_name,
    not_all_zero,
    not_empty,
    up_to_one,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from renaissance.contracts.dataset import Dataset, DatasetContext
    from renaissance.contracts.encoder import Encoder, EncoderContext
    from renaissance.contracts.fusion import Fusion
    from renaissance.contracts.head import Head
    from renaissance.contracts.monitor import Monitor
    from renaissance.contracts.objective import Objective, ObjectiveContext
    from renaissance.contracts.optimizer import Optimizer
    from renaissance.contracts.pooler import Pooler
    from renaissance.contracts.transform import Channels, Transform, TransformContext

FROZEN_HELP = "Do not train it: evaluation mode, no gradient."


@attrs.frozen
class Choice:
    """A chosen component.

    Attributes:
        kind: Which kind of component.
        default_type: Registered name of the component if the table names none; None if it must
            name one.
        registration: The component.
        options: An instance of the component's `Options`.
    """

    kind: ClassVar[Kind]
    default_type: ClassVar[str | None] = None
    registration: Registration
    options: Any

    @property
    def type(self) -> str:
        """The registered name of the component."""
        return self.registration.name

    def _make(self, *arguments: object) -> Any:
        # Registering the class has checked its signature and its base, which `build` returns.
        component: Any = self.registration.component
        return component(self.options, *arguments)


@attrs.frozen
class Lora:
    """Low-rank adaptation: the encoder is frozen, and its linear layers get a small addition."""

    type: Literal["lora"] = option(help="Kind of adaptation.")
    rank: int = option(8, help="Rank of what is added to each linear layer.", validator=positive)
    alpha: int = option(16, help="What is added is scaled by alpha / rank.", validator=positive)
    dropout: float = option(0.0, help="Dropout before what is added.", validator=fraction)


@attrs.frozen
class EncoderChoice(Choice):
    """An encoder."""

    kind = "encoder"
    frozen: bool | str = option(
        False,
        help=f'{FROZEN_HELP} "all but 2": train the last 2 layers, and a norm above them, alone.',
        validator=frozen_part,
    )
    adapt: Lora | None = option(
        None, help="Train small additions in place of the parameters themselves; needs peft."
    )

    @property
    def num_trained_layers(self) -> int | None:
        """How many of its last layers are trained, if only some are."""
        return int(self.frozen.split()[-1]) if isinstance(self.frozen, str) else None

    @property
    def modalities(self) -> frozenset[str]:
        """What it takes: "text", "image", or both."""
        return cast("type[Encoder]", self.registration.component).modalities

    @property
    def checkpoint(self) -> str | None:
        """The hub id or folder of its pretrained parameters, if it has any."""
        return cast("type[Encoder]", self.registration.component).checkpoint_of(self.options)

    def save_config(self, folder: "Path") -> None:
        """Write what building the encoder reads besides its options."""
        cast("type[Encoder]", self.registration.component).save_config(self.options, folder)

    def build(self, context: "EncoderContext") -> "Encoder":
        """Make the encoder, with parameters drawn from torch's generator or read from a file."""
        return cast("Encoder", self._make(context))


@attrs.frozen
class FusionChoice(Choice):
    """The fusion module of a two-tower model."""

    kind = "fusion"
    default_type = "co-attention"
    frozen: bool = option(False, help=FROZEN_HELP)

    def build(self) -> "Fusion":
        """Make the fusion module."""
        return cast("Fusion", self._make())


@attrs.frozen
class PoolerChoice(Choice):
    """The pooler."""

    kind = "pooler"
    default_type = "double"

    def build(self, hidden_size: int) -> "Pooler":
        """Make the pooler, for fused tokens of this width."""
        return cast("Pooler", self._make(hidden_size))


@attrs.frozen
class HeadChoice(Choice):
    """The head of an objective."""

    kind = "head"

    def build(self, input_size: int, output_size: int) -> "Head":
        """Make the head."""
        return cast("Head", self._make(input_size, output_size))


@attrs.frozen
class DatasetChoice(Choice):
    """One dataset; several are concatenated."""

    kind = "dataset"
    weight: float | None = option(
        None,
        help="Sampling weight: how often training draws from it, relative to the others, which "
        "then need one too. If absent, all are shuffled together.",
        validator=positive,
    )
    objectives: tuple[str, ...] | None = option(
        None,
        help="Names of the objectives that its samples are for; all if absent.",
        validator=not_empty,
    )

    def build(self, context: "DatasetContext") -> "Dataset":
        """Open the dataset."""
        return cast("Dataset", self._make(context))


def _head_of(objective: Registration) -> Any:
    name = cast("type[Objective]", objective.component).default_head
    return None if name is None else {"type": name}


@attrs.frozen
class ObjectiveChoice(Choice):
    """One objective."""

    kind = "objective"
    weight: float = option(
        1.0, help="Loss weight: factor of its loss in the sum.", validator=non_negative
    )
    name: str = derived(
        lambda objective: objective.name,
        help="Name in logs.",
        default_text="its type",
        validator=log_name,
    )
    head: HeadChoice | None = derived(
        _head_of,
        help="Head to use in place of the objective's default.",
        default_text="the objective's default",
    )

    @property
    def learns(self) -> bool:
        """Whether it has a loss, and does not only evaluate."""
        return cast("type[Objective]", self.registration.component).learns

    def build(self, context: "ObjectiveContext") -> "Objective":
        """Make the objective with its head."""
        return cast("Objective", self._make(context))


@attrs.frozen
class MonitorChoice(Choice):
    """One monitor."""

    kind = "monitor"

    def build(self) -> "Monitor":
        """Make the monitor, on rank 0."""
        return cast("Monitor", self._make())


@attrs.frozen
class TransformChoice(Choice):
    """How an image becomes a square of pixels, and how pixels are normalized."""

    kind = "transform"
    default_type = "imagenet"
    mean: tuple[float, float, float] | None = option(
        None,
        help="Mean of each channel, in [0, 1]; if absent, that of the image encoder's "
        "preprocessor_config.json, or else that of the transform.",
    )
    std: tuple[float, float, float] | None = option(
        None,
        help="Standard deviation of each channel; the default is found as for mean.",
        validator=above_zero,
    )

    @property
    def normalization(self) -> "tuple[Channels, Channels]":
        """The transform's default mean and standard deviation."""
        component = cast("type[Transform]", self.registration.component)
        return component.mean, component.std

    def build(self, context: "TransformContext") -> "Transform":
        """Make the transform."""
        return cast("Transform", self._make(context))


@attrs.frozen
class Multipliers:
    """Learning rate factors, by the role that the model declares for each module."""

    encoder: float = option(1.0, help="Encoders.", validator=non_negative)
    fusion: float = option(5.0, help="Fusion, projections and pooler.", validator=non_negative)
    head: float = option(5.0, help="Heads of the objectives.", validator=non_negative)


@attrs.frozen
class OptimizerChoice(Choice):
    """The optimizer."""

    kind = "optimizer"
    default_type = "adamw"
    learning_rate: float = option(1e-5, help="Peak learning rate.", validator=positive)
    weight_decay: float = option(
        0.01, help="Weight decay; none on biases and norms.", validator=non_negative
    )
    multipliers: Multipliers = option(
        factory=Multipliers,
        help="Learning rate factors by module role.",
        validator=not_all_zero,
    )
    layer_decay: float = option(
        1.0,
        help="Learning rate of each layer of an encoder, as a fraction of that of the layer above "
        "it; 1 for the same rate in all layers.",
        validator=up_to_one,
    )

    @property
    def states_per_parameter(self) -> int:
        """Values that it keeps for each trained value."""
        return cast("type[Optimizer]", self.registration.component).states_per_parameter

    def build(self, groups: "Sequence[dict[str, Any]]") -> "torch.optim.Optimizer":
        """Make the torch optimizer for these parameter groups."""
        optimizer = cast("Optimizer", self._make())
        return optimizer.make(groups, self.learning_rate)


def shared_keys(choice: type[Choice]) -> tuple[str, ...]:
    """Return the keys that a choice has, whichever component it chooses."""
    names = [field.name for field in attrs.fields(choice)]
    return tuple(name for name in names if name not in ("registration", "options"))
