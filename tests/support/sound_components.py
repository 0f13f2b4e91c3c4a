"""A sound component of each kind, and how to make a broken one of it."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from renaissance import (
    Dataset,
    Encoder,
    Fusion,
    Head,
    Objective,
    ObjectiveBatch,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
    Pooler,
    Sample,
    Tokens,
    accuracy,
)
from renaissance.testing import (
    check_dataset,
    check_encoder,
    check_fusion,
    check_head,
    check_objective,
    check_pooler,
)


@attrs.frozen
class NoOptions:
    """Nothing to set."""


class SoundHead(Head):
    """A linear layer."""

    Options = NoOptions

    def __init__(self, options: Any, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states)


class SoundText(Encoder):
    """Embeds tokens and adds their mean."""

    Options = NoOptions
    modalities = frozenset({"text"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.embedding = nn.Embedding(context.vocab_size, 8)
        self.linear = nn.Linear(8, 8)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        states = self.embedding(input_ids)
        weights = attention_mask[:, :, None].float()
        mean = (states * weights).sum(1) / weights.sum(1)
        return Tokens(self.linear(states + mean[:, None]), attention_mask)


class SoundImage(Encoder):
    """Embeds patches."""

    Options = NoOptions
    modalities = frozenset({"image"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.patches = nn.Conv2d(3, 8, 16, 16)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        states = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool))


class SoundJoint(SoundText):
    """Embeds both, then one layer and the mean token."""

    modalities = frozenset({"text", "image"})

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        self.patches = nn.Conv2d(3, 8, 16, 16)

    encode_image = SoundImage.encode_image

    def encode_joint(self, tokens: Tokens) -> Tokens:
        weights = tokens.attention_mask[:, :, None].float()
        mean = (tokens.hidden_states * weights).sum(1) / weights.sum(1)
        return Tokens(tokens.hidden_states + mean[:, None], tokens.attention_mask)


class SoundFusion(Fusion):
    """Adds the other modality's mean token."""

    Options = NoOptions

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.hidden_size = 8
        self.linear = nn.Linear(8, 8)

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        return (
            Tokens(text.hidden_states + self.mean(image)[:, None], text.attention_mask),
            Tokens(image.hidden_states + self.mean(text)[:, None], image.attention_mask),
        )

    def mean(self, tokens: Tokens) -> Tensor:
        weights = tokens.attention_mask[:, :, None].float()
        return self.linear((tokens.hidden_states * weights).sum(1) / weights.sum(1))


class SoundPooler(Pooler):
    """The mean text token."""

    Options = NoOptions
    image_use = "none"

    def __init__(self, options: Any, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        assert text is not None
        assert image is None
        weights = text.attention_mask[:, :, None].float()
        return (text.hidden_states * weights).sum(1) / weights.sum(1)


class SoundDataset(Dataset):
    """Noise with a word and a number."""

    Options = NoOptions
    provides = frozenset({"text", "image", "number"})
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "noise")

    def __init__(self, options: Any, context: Any) -> None:
        self.options = options

    def __len__(self) -> int:
        return 4

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        image = Image.new("RGB", (8, 8), (index, 0, 0))
        return Sample("noise", None, (image,), (index,), {"number": index}, f"noise: {index}")


class SoundObjective(Objective):
    """Tells true pairs from false ones."""

    Options = NoOptions
    requires = frozenset({"text", "image"})

    default_head = "linear"

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, 2)

    def collate(self, samples: Any, builder: Any) -> ObjectiveBatch:
        labels = [int(sample.generator("sound").integers(2)) for sample in samples]
        shown = [
            s if label else builder.other_sample(s, "sound/other")
            for s, label in zip(samples, labels, strict=True)
        ]
        return ObjectiveBatch(
            len(samples),
            Pairs(
                torch.tensor([builder.text(sample) for sample in samples]),
                torch.tensor([builder.image(sample) for sample in shown]),
            ),
            {"labels": torch.tensor(labels)},
        )

    def forward(self, batch: ObjectiveBatch, features: Any) -> ObjectiveOutput:
        logits = self.head(features.fused.pooled)
        loss_sum = F.cross_entropy(logits.float(), batch.tensors["labels"], reduction="sum")
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": accuracy()}

    def update_metrics(self, metrics: Any, batch: Any, output: Any) -> None:
        right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
        metrics["accuracy"].update(right.float())

    def panel(self, batch: Any, output: Any, texts: Any) -> list[PanelEntry]:
        return [PanelEntry(0, ("a line",))]


CHECKS: dict[type, Callable[..., None]] = {
    Head: check_head,
    Encoder: check_encoder,
    Fusion: check_fusion,
    Pooler: check_pooler,
    Dataset: check_dataset,
    Objective: check_objective,
}


def check(component: type) -> None:
    (examine,) = [check for kind, check in CHECKS.items() if issubclass(component, kind)]
    examine(component)


def breaking(sound: type, **attributes: Any) -> type:
    """Return a class that differs from a sound one in what is given."""
    return type("Broken", (sound,), {"__doc__": "Broken.", **attributes})


def after_init(change: Callable[[Any], None]) -> Callable[..., None]:
    """Return an __init__ that changes what the sound one of the same class has made."""

    def __init__(self: Any, options: Any, *rest: Any) -> None:  # noqa: N807
        super(type(self), self).__init__(options, *rest)
        change(self)

    return __init__
