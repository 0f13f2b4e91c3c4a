"""Small components and a spec that names them, for tests of run specs."""

from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Dataset,
    Encoder,
    Features,
    Fusion,
    Head,
    Monitor,
    Objective,
    ObjectiveBatch,
    ObjectiveOutput,
    Optimizer,
    Pooler,
    Sample,
    Tokens,
    Transform,
    fraction,
    option,
    positive,
)


class TextEncoder(Encoder):
    """A text encoder."""

    modalities = frozenset({"text"})

    @attrs.frozen
    class Options:
        checkpoint: str = option(help="Hub id or folder.")
        config: dict[str, Any] = option(factory=dict, help="Keys that override its configuration.")


class ImageEncoder(Encoder):
    """An image encoder."""

    modalities = frozenset({"image"})

    @attrs.frozen
    class Size:
        width: int = option(8, help="Width.", validator=positive)
        depth: int = option(2, help="Depth.", validator=positive)

    @attrs.frozen
    class Options:
        checkpoint: str | None = option(None, help="Hub id or folder.")
        size: "ImageEncoder.Size" = option(factory=lambda: ImageEncoder.Size(), help="Its size.")


class PatchEncoder(ImageEncoder):
    @attrs.frozen
    class Options:
        patch_size: int = option(16, help="Pixels.")


class JointEncoder(Encoder):
    modalities = frozenset({"text", "image"})

    @attrs.frozen
    class Options:
        pass


class SomeFusion(Fusion):
    @attrs.frozen
    class Options:
        num_layers: int = option(6, help="Layers.", validator=positive)

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        return text, image


class SomeHead(Head):
    @attrs.frozen
    class Options:
        dropout: float = option(0.1, help="Dropout.", validator=fraction)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


class SomeObjective(Objective):
    requires = frozenset({"text"})

    @attrs.frozen
    class Options:
        probability: float = option(0.15, help="Share of tokens.", validator=fraction)
        negatives: Literal["batch", "dataset"] = option("batch", help="Where from.")

    def collate(self, samples: Any, builder: BatchBuilder) -> ObjectiveBatch:
        return ObjectiveBatch(len(samples))

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        raise NotImplementedError


class SomeDataset(Dataset):
    provides = frozenset({"text"})

    @attrs.frozen
    class Options:
        files: str | tuple[str, ...] = option(help="Path, or list of paths.")
        crop: tuple[int, int] | None = option(None, help="Width and height.")

    def __len__(self) -> int:
        return 1

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        return Sample()


class SomePooler(Pooler):
    @attrs.frozen
    class Options:
        size: int = option(8, help="Size of the vector.", validator=positive)

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        raise NotImplementedError


class SomeTransform(Transform):
    mean = (0.1, 0.2, 0.3)
    std = (0.4, 0.5, 0.6)

    @attrs.frozen
    class Options:
        randaugment: bool = option(False, help="Augment.")

    def pixels(self, image: Any, generator: np.random.Generator) -> Any:
        raise NotImplementedError


class SomeOptimizer(Optimizer):
    states_per_parameter = 2

    @attrs.frozen
    class Options:
        betas: tuple[float, float] = option((0.9, 0.98), help="Decay rates.")

    def make(self, groups: Any, learning_rate: float) -> Any:
        raise NotImplementedError


class Momentum(SomeOptimizer):
    @attrs.frozen
    class Options:
        momentum: float = option(0.9, help="Momentum.", validator=fraction)


class SomeMonitor(Monitor):
    @attrs.frozen
    class Options:
        every: int = option(1, help="Steps between lines.", validator=positive)


COMPONENTS = (
    ("encoder", "text", TextEncoder),
    ("encoder", "image", ImageEncoder),
    ("encoder", "patches", PatchEncoder),
    ("encoder", "joint", JointEncoder),
    ("fusion", "some-fusion", SomeFusion),
    ("fusion", "co-attention", SomeFusion),
    ("pooler", "double", SomePooler),
    ("transform", "imagenet", SomeTransform),
    ("transform", "clip", SomeTransform),
    ("optimizer", "adamw", SomeOptimizer),
    ("optimizer", "sgd", Momentum),
    ("monitor", "console", SomeMonitor),
    ("monitor", "jsonl", SomeMonitor),
    ("monitor", "tensorboard", SomeMonitor),
    ("head", "some-head", SomeHead),
    ("objective", "mlm", SomeObjective),
    ("objective", "itm", SomeObjective),
    ("dataset", "files", SomeDataset),
)

BASE = """
[model.text_encoder]
type = "text"
checkpoint = "google/electra"
[model.image_encoder]
type = "image"
frozen = true
[[data.train]]
type = "files"
files = ["a.arrow", "b.arrow"]
[[objectives]]
type = "mlm"
[[objectives]]
type = "itm"
weight = 2
negatives = "dataset"
"""


def write(name: str, text: str) -> str:
    """Write a file, and return its name."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name
