"""Visual entailment: does an image entail a sentence, contradict it, or neither?

Xie et al., "Visual Entailment: A Novel Task for Fine-Grained Image Understanding", 2019.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import attrs
import torch
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
)
from renaissance.builtin.objectives.classification import (
    cross_entropy_sum,
    labelled,
    one_pair_a_sample,
    update_accuracy,
    write_csv,
)
from renaissance.builtin.objectives.text import readable

CLASSES = ("contradiction", "neutral", "entailment")


class SNLIVE(Objective):
    """Visual entailment: three classes from the pooled pair of hypothesis and image."""

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"entailment"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.tokenizer = context.tokenizer
        self.head = context.make_head(context.sizes.pooled, len(CLASSES))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each hypothesis with its image."""
        known = labelled(samples, self.labels)
        labels = [sample.sample.labels["entailment"] for sample in samples] if known else []
        return ObjectiveBatch(
            num_targets=len(labels),
            pairs=one_pair_a_sample(samples, builder),
            tensors={"labels": torch.tensor(labels)} if known else {},
            identifiers=tuple(sample.sample.labels["identifier"] for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Classify the pooled pairs."""
        assert features.fused is not None
        logits: Tensor = self.head(features.fused.pooled)
        loss_sum = cross_entropy_sum(logits, batch.tensors.get("labels"))
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the hypotheses that are classified right."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        update_accuracy(metrics, batch, output)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return each hypothesis's class by name."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"identifier": identifier, "prediction": CLASSES[label]}
            for identifier, label in zip(batch.identifiers, predicted, strict=True)
        ]

    def write_predictions(self, rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
        """Write lines of identifier,prediction under a header."""
        header = ("identifier", "prediction")
        write_csv([header, *(tuple(row[name] for name in header) for row in rows)], file)

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Each hypothesis, its predicted class, and the true one."""
        assert batch.pairs is not None
        assert input_ids is not None
        predicted = output.predictions["logits"].argmax(-1).tolist()
        labels = batch.tensors["labels"].tolist() if "labels" in batch.tensors else None
        entries = []
        for place, (text_row, image_row) in enumerate(
            zip(batch.pairs.text_rows.tolist(), batch.pairs.image_rows.tolist(), strict=True)
        ):
            truth = f" (truth: {CLASSES[labels[place]]})" if labels else ""
            text = readable(self.tokenizer, input_ids[text_row])
            entries.append(PanelEntry(image_row, (f"{CLASSES[predicted[place]]}{truth}: {text}",)))
        return entries
