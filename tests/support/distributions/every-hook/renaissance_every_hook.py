"""A plugin that implements every hook: a component of each kind, and a record of the run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Dataset,
    DatasetContext,
    Encoder,
    EncoderContext,
    Features,
    Fusion,
    Head,
    KeyedSample,
    Monitor,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Optimizer,
    Pooler,
    Record,
    Sample,
    Source,
    SourceContext,
    Tokens,
    Transform,
    TransformContext,
    hookimpl,
    option,
    positive,
)

calls: list[tuple[Any, ...]] = []


class TextLengths(Encoder):
    """Encodes every token as zeros."""

    modalities = frozenset({"text"})

    @attrs.frozen
    class Options:
        hidden_size: int = option(4, help="Width of the states.", validator=positive)

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        self.hidden_size = options.hidden_size

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        states = torch.zeros(*input_ids.shape, self.hidden_size)
        return Tokens(states, attention_mask)


class MaxPooler(Pooler):
    """The largest value of each text channel."""

    image_use = "none"

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        assert text is not None
        return text.hidden_states.amax(dim=1)


class NoFusion(Fusion):
    """Leaves both modalities as they are."""

    @attrs.frozen
    class Options:
        hidden_size: int = option(4, help="Width of the states.")

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.hidden_size = options.hidden_size

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        return text, image


class ZeroHead(Head):
    """Logits of zero."""

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros(*hidden_states.shape[:-1], self.output_size)


class OneText(Dataset):
    """The same text every time."""

    provides = frozenset({"text"})

    @attrs.frozen
    class Options:
        text: str = option(help="The text.")

    def __init__(self, options: Options, context: DatasetContext) -> None:
        self.text = options.text

    def __len__(self) -> int:
        return 1

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        return Sample(text=self.text)


class NoLoss(Objective):
    """Learns nothing."""

    requires = frozenset({"text"})

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        return ObjectiveBatch(num_targets=len(samples))

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        return ObjectiveOutput(torch.zeros(()))


class Silent(Monitor):
    """Says nothing."""

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options) -> None: ...


class Black(Transform):
    """Every picture is black."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    is_deterministic = True

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options, context: TransformContext) -> None:
        self.size = context.image_size

    def pixels(self, image: Image.Image, generator: np.random.Generator) -> Any:
        return np.zeros((3, self.size, self.size), np.uint8)


class Still(Optimizer):
    """Never moves."""

    states_per_parameter = 0

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options) -> None: ...

    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(groups), lr=0.0)


class Empty(Source):
    """Lists nothing."""

    name = "nothing"
    schema = pa.schema([("image", pa.binary())])

    @attrs.frozen
    class Options:
        pass

    def __init__(self, options: Options, context: SourceContext) -> None: ...

    def records(self) -> list[Record]:
        return []


@hookimpl
def register_encoders(register: Callable[..., None]) -> None:
    register("text-lengths", TextLengths)


@hookimpl
def register_poolers(register: Callable[..., None]) -> None:
    register("max-text", MaxPooler)


@hookimpl
def register_fusions(register: Callable[..., None]) -> None:
    register("no-fusion", NoFusion)


@hookimpl
def register_objectives(register: Callable[..., None]) -> None:
    register("no-loss", NoLoss)


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    register("one-text", OneText)


@hookimpl
def register_heads(register: Callable[..., None]) -> None:
    register("zero", ZeroHead)


@hookimpl
def register_monitors(register: Callable[..., None]) -> None:
    register("silent", Silent)


@hookimpl
def register_transforms(register: Callable[..., None]) -> None:
    register("black", Black)


@hookimpl
def register_optimizers(register: Callable[..., None]) -> None:
    register("still", Still)


@hookimpl
def register_sources(register: Callable[..., None]) -> None:
    register("empty", Empty)


@hookimpl
def run_started(run: Any) -> None:
    calls.append(("run_started", run))


@hookimpl
def step_finished(report: Any) -> None:
    calls.append(("step_finished", report))


@hookimpl
def evaluated(run: Any, evaluation: Any) -> None:
    calls.append(("evaluated", run, evaluation))


@hookimpl
def checkpoint_saved(run: Any, step: int, folder: Path) -> None:
    calls.append(("checkpoint_saved", run, step, folder))


@hookimpl
def run_finished(run: Any, reason: str, summary: dict[str, Any]) -> None:
    calls.append(("run_finished", run, reason, summary))
