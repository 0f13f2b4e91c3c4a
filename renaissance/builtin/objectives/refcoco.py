"""Referring expressions: to which box of an image does a sentence refer?

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016.
"""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Classification,
    Features,
    Guess,
    KeyedSample,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
)


class RefCOCO(Classification):
    """Scores the sentence with a crop of each box: a softmax over the boxes.

    The boxes are the annotated ones, so the right one is always among them.
    """

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"box"})
    identifier = "identifier"
    prediction = "box"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, 1)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sentence with every box of its image."""
        text_rows: list[int] = []
        image_rows: list[int] = []
        counts = [len(sample.images) for sample in samples]
        # Index of the pair for each sample and box, (samples, boxes), and whether the box exists.
        pair_of = torch.zeros(len(samples), max(counts), dtype=torch.int64)
        is_box = torch.zeros(len(samples), max(counts), dtype=torch.bool)
        for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
            pair_of[row, :count] = torch.arange(count) + len(text_rows)
            is_box[row, :count] = True
            text_rows += [builder.text(sample)] * count
            image_rows += [builder.image(sample, box) for box in range(count)]
        pairs = Pairs(text_rows=torch.tensor(text_rows), image_rows=torch.tensor(image_rows))
        return self.batch_of(samples, pairs, {"pair_of": pair_of, "is_box": is_box})

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Score each pooled pair, (samples, boxes); minus infinity where there is no box."""
        scores = self.head(features.pooled).squeeze(-1).float()
        return scores[batch.tensors["pair_of"]].masked_fill(~batch.tensors["is_box"], float("-inf"))

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return each sentence below the chosen box, and below the right one if that differs."""
        rows, pair_of = batch.fused_pairs.rows(), batch.tensors["pair_of"].tolist()
        logits = output.predictions["logits"]
        chosen, chances = logits.argmax(-1).tolist(), logits.float().softmax(-1).tolist()
        right = batch.tensors["labels"].tolist() if "labels" in batch.tensors else chosen
        entries = []
        for sample, pairs in enumerate(pair_of):
            text_row, image_row = rows[pairs[chosen[sample]]]
            text, chance = texts[text_row], chances[sample][chosen[sample]]
            if "labels" not in batch.tensors:
                guess = Guess(f"chosen {chance:.2f}")
            elif chosen[sample] == right[sample]:
                guess = Guess(f"chosen {chance:.2f}", is_right=True)
            else:
                guess = Guess(f"chosen {chance:.2f} (wrong)", is_right=False)
                missed = rows[pairs[right[sample]]][1]
                entries.append(PanelEntry(missed, (text, Guess("not chosen (truth)", False))))
            entries.append(PanelEntry(image_row, (text, guess)))
        return entries
