"""Referring expressions: which box of an image does a sentence mean?

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
    Pairs,
    PanelEntry,
)
from renaissance.builtin.objectives.classification import (
    cross_entropy_sum,
    labelled,
    update_accuracy,
)
from renaissance.builtin.objectives.text import readable


class RefCOCO(Objective):
    """Scores the sentence with each box cut out, and chooses the best: softmax over the boxes.

    The boxes are the annotated ones, and so is the right one among them.
    """

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"box"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.tokenizer = context.tokenizer
        self.head = context.make_head(context.sizes.pooled, 1)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sentence with every box of its image."""
        text_rows: list[int] = []
        image_rows: list[int] = []
        numbers = [len(sample.sample.images) for sample in samples]
        # Pair of each sample's box, (samples, boxes), and whether there is such a box.
        pair_of = torch.zeros(len(samples), max(numbers), dtype=torch.int64)
        is_box = torch.zeros(len(samples), max(numbers), dtype=torch.bool)
        for place, (sample, number) in enumerate(zip(samples, numbers, strict=True)):
            pair_of[place, :number] = torch.arange(number) + len(text_rows)
            is_box[place, :number] = True
            text_rows += [builder.text(sample)] * number
            image_rows += [builder.image(sample, box) for box in range(number)]
        tensors = {"pair_of": pair_of, "is_box": is_box}
        known = labelled(samples, self.labels)
        if known:
            tensors["labels"] = torch.tensor([sample.sample.labels["box"] for sample in samples])
        return ObjectiveBatch(
            num_targets=len(samples) if known else 0,
            pairs=Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows)),
            tensors=tensors,
            identifiers=tuple(sample.sample.labels["identifier"] for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Score each pooled pair, and compare the boxes of each sentence."""
        assert features.fused is not None
        scores: Tensor = self.head(features.fused.pooled).squeeze(-1).float()
        logits = scores[batch.tensors["pair_of"]]
        logits = logits.masked_fill(~batch.tensors["is_box"], float("-inf"))
        if "labels" in batch.tensors:
            loss_sum = cross_entropy_sum(logits, batch.tensors["labels"])
        else:
            loss_sum = cross_entropy_sum(scores, None)
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the sentences whose box is found."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        update_accuracy(metrics, batch, output)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return the position of each sentence's box among those of its row."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"identifier": identifier, "box": box}
            for identifier, box in zip(batch.identifiers, predicted, strict=True)
        ]

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Each sentence under the box chosen for it, and under the right one where that differs."""
        assert batch.pairs is not None
        assert input_ids is not None
        predicted = output.predictions["logits"].argmax(-1).tolist()
        labels = batch.tensors["labels"].tolist() if "labels" in batch.tensors else None
        pair_of = batch.tensors["pair_of"].tolist()
        text_rows, image_rows = batch.pairs.text_rows.tolist(), batch.pairs.image_rows.tolist()
        entries = []
        for place, box in enumerate(predicted):
            pair = pair_of[place][box]
            text = readable(self.tokenizer, input_ids[text_rows[pair]])
            if labels is None:
                verdict = "chosen"
            elif labels[place] == box:
                verdict = "chosen (right)"
            else:
                verdict = "chosen (wrong)"
                right = image_rows[pair_of[place][labels[place]]]
                entries.append(PanelEntry(right, (f"not chosen (truth): {text}",)))
            entries.append(PanelEntry(image_rows[pair], (f"{verdict}: {text}",)))
        return entries
