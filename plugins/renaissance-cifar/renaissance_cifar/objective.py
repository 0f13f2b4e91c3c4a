"""Classify images by the image encoder alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from renaissance import (
    BatchBuilder,
    Features,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    PanelEntry,
    option,
    positive,
)


class ImageClassification(Objective):
    """A head over the mean of the image's tokens; no text is read and nothing is fused.

    The mean, because not every image encoder has a class token.
    """

    requires = frozenset({"image"})
    labels = frozenset({"label"})
    unimodal = frozenset({"image"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `image-classification`."""

        num_classes: int = option(10, help="Classes of the dataset.", validator=positive)

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.image, options.num_classes)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Note each sample's image row and label."""
        tensors = {"image_rows": torch.tensor([builder.image(sample) for sample in samples])}
        labels = [s.sample.labels["label"] for s in samples if "label" in s.sample.labels]
        if labels:
            tensors["labels"] = torch.tensor(labels)
        return ObjectiveBatch(
            num_targets=len(labels),
            tensors=tensors,
            identifiers=tuple(str(sample.sample.image_ids[0]) for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Classify the mean tokens."""
        assert features.image is not None
        rows = batch.tensors["image_rows"]
        weights = features.image.attention_mask[rows, :, None].to(torch.float32)
        # (samples, hidden)
        mean = (features.image.hidden_states[rows] * weights).sum(1) / weights.sum(1)
        logits: Tensor = self.head(mean)
        if "labels" in batch.tensors:
            loss_sum = F.cross_entropy(logits.float(), batch.tensors["labels"], reduction="sum")
        else:
            loss_sum = logits.float().sum() * 0
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the images that are classified right."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        if "labels" in batch.tensors:
            right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
            metrics["accuracy"].update(right.float())

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """The class of each image."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"image": name, "prediction": number}
            for name, number in zip(batch.identifiers, predicted, strict=True)
        ]

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """The class of each image, and the right one."""
        rows = batch.tensors["image_rows"].tolist()
        predicted = output.predictions["logits"].argmax(-1).tolist()
        labels = (
            batch.tensors["labels"].tolist() if "labels" in batch.tensors else [None] * len(rows)
        )
        return [
            PanelEntry(row, (f"class {number}", *([] if label is None else [f"truth {label}"])))
            for row, number, label in zip(rows, predicted, labels, strict=True)
        ]
