"""What an objective reads of each sample: its text, its image, or both, fused."""

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    DataError,
    Features,
    KeyedSample,
    Modality,
    ModelSizes,
    ObjectiveBatch,
    Pairs,
    Tokens,
    TrainingData,
    option,
    summarize,
)

MODALITIES_HELP = 'What it reads: ["text", "image"] together, ["text"] or ["image"].'


def modalities_option(
    default: tuple[Literal["text", "image"], ...] = (),
) -> tuple[Literal["text", "image"], ...]:
    """Declare the option `modalities`; without a default, it is what the training data has."""
    absent = "" if default else " If absent, what the training data has."
    modalities: tuple[Literal["text", "image"], ...] = option(
        default, help=MODALITIES_HELP + absent, validator=_distinct
    )
    return modalities


def _distinct(instance: object, attribute: object, value: Sequence[str]) -> None:
    if len(set(value)) != len(value):
        raise ValueError(f"got {list(value)}, expected each modality once")


@attrs.frozen
class Inputs:
    """The modalities that an objective reads, and one vector per sample from them.

    With both, the vector is the pooled pair. With one, it is the mean of the tokens of the text or
    of the image, encoded alone: not every encoder has a token that stands for the whole.

    Attributes:
        modalities: "text", "image", or both.
    """

    modalities: frozenset[Modality]

    @classmethod
    def of(cls, modalities: Sequence[Modality], data: TrainingData) -> "Inputs":
        """Return the modalities of the option, or else those that the training data has.

        Raises:
            DataError: If it has neither.
        """
        chosen = frozenset(modalities or data.modalities())
        if not chosen:
            raise DataError(
                "the training data has neither text nor image; expected at least one. Name the "
                "dataset's columns of them"
            )
        return cls(chosen)

    @property
    def unimodal(self) -> frozenset[Modality]:
        """The modality that is read by itself, if it is only one."""
        return self.modalities if len(self.modalities) == 1 else frozenset()

    def size(self, sizes: ModelSizes) -> int:
        """Return the size of the vector."""
        if not self.unimodal:
            return sizes.pooled
        return sizes.text if "text" in self.modalities else sizes.image

    def rows(
        self, samples: Sequence[KeyedSample], builder: BatchBuilder
    ) -> tuple[Pairs | None, dict[str, Tensor]]:
        """Return the pairs to fuse, or else, as tensors, the rows of texts or images."""
        if not self.unimodal:
            return Pairs.one_per_sample(samples, builder), {}
        if "text" in self.modalities:
            return None, {"text_rows": torch.tensor([builder.text(s) for s in samples])}
        return None, {"image_rows": torch.tensor([builder.image(s) for s in samples])}

    def vectors(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Return one vector per sample, (samples, size)."""
        if not self.unimodal:
            return features.pooled
        if "text" in self.modalities:
            return _mean(features.text, batch.tensors["text_rows"])
        return _mean(features.image, batch.tensors["image_rows"])

    def shown(self, batch: ObjectiveBatch, texts: Sequence[str]) -> list[tuple[int, str]]:
        """Return the image row and the text of each sample for the panel; empty without images."""
        if batch.pairs is not None:
            return [(image_row, texts[text_row]) for text_row, image_row in batch.pairs.rows()]
        if "image_rows" in batch.tensors:
            return [(row, "") for row in batch.tensors["image_rows"].tolist()]
        return []


def _mean(tokens: Tokens, rows: Tensor) -> Tensor:
    """Return the mean of the real tokens of each row, (rows, hidden)."""
    return summarize(tokens.take(rows), "mean")


def identify(sample: KeyedSample) -> dict[str, object]:
    """Return how predictions name a sample: by its label "id", or else by its index."""
    if "id" in sample.labels:
        return {"id": sample.labels["id"]}
    return {"index": sample.index}
