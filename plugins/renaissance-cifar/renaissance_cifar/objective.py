"""Classify images with the image encoder alone."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Classification,
    Features,
    KeyedSample,
    ObjectiveBatch,
    ObjectiveContext,
    option,
    positive,
)


class ImageClassification(Classification):
    """A head over the mean of the image's tokens; no text is read and nothing is fused.

    It uses the mean because not every image encoder has a class token.
    """

    requires = frozenset({"image"})
    labels = frozenset({"label"})
    unimodal = frozenset({"image"})
    identifier = "image"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `image-classification`."""

        num_classes: int = option(10, help="Number of classes.", validator=positive)

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.image, options.num_classes)

    def identify(self, sample: KeyedSample) -> str:
        """Return the identifier of the image."""
        return str(sample.image_ids[0])

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Keep each sample's image row."""
        rows = torch.tensor([builder.image(sample) for sample in samples])
        return self.batch_of(samples, tensors={"image_rows": rows})

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Classify the mean of each image's tokens."""
        rows = batch.tensors["image_rows"]
        is_real = features.image.attention_mask[rows, :, None].to(torch.float32)
        # (samples, hidden)
        mean = (features.image.hidden_states[rows] * is_real).sum(1) / is_real.sum(1)
        return self.head(mean)
