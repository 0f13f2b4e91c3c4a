"""Reasoning over two images: is a sentence true of the pair?

Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import attrs
import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from renaissance import (
    BatchBuilder,
    DataError,
    Features,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Pairs,
    PanelEntry,
)
from renaissance.builtin.objectives.classification import cross_entropy_sum, labelled, write_csv
from renaissance.builtin.objectives.text import readable

ANSWERS = ("False", "True")


class NLVR2(Objective):
    """True or false, from one text with each of two images.

    The text is fused with the first image and with the second, which the model is told apart by
    their types; both pooled vectors together are classified (Chen et al., 2020, "UNITER", section
    4.1; Kim et al., 2021).
    """

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"answer"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.tokenizer = context.tokenizer
        self.head = context.make_head(2 * context.sizes.pooled, len(ANSWERS))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sentence with its first image, and at once with its second.

        Raises:
            DataError: If a sample has not two images.
        """
        text_rows, image_rows = [], []
        for sample in samples:
            number = len(sample.sample.images)
            if number != 2:
                raise DataError(
                    f"{sample.sample.source}: the number of images is {number}; nlvr2 expects 2. "
                    "Use it with a dataset of pairs of images, such as 'nlvr2'"
                )
            text_rows += [builder.text(sample)] * 2
            image_rows += [builder.image(sample, 0), builder.image(sample, 1)]
        known = labelled(samples, self.labels)
        tensors = {}
        if known:
            tensors["labels"] = torch.tensor([s.sample.labels["answer"] for s in samples])
            tensors["groups"] = torch.tensor([_group(sample) for sample in samples])
        return ObjectiveBatch(
            num_targets=len(samples) if known else 0,
            pairs=Pairs(
                text_rows=torch.tensor(text_rows),
                image_rows=torch.tensor(image_rows),
                image_types=torch.tensor([1, 2]).repeat(len(samples)),
            ),
            tensors=tensors,
            identifiers=tuple(sample.sample.labels["identifier"] for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Classify both pooled vectors of each sentence together."""
        assert features.fused is not None
        assert features.fused.pooled is not None
        both = features.fused.pooled.reshape(len(batch.identifiers), -1)
        logits: Tensor = self.head(both)
        loss_sum = cross_entropy_sum(logits, batch.tensors.get("labels"))
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Share of the examples, and of the sentences with all their examples, that are right."""
        return {"accuracy": MeanMetric(nan_strategy="disable"), "consistency": Consistency()}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        if "labels" in batch.tensors:
            right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
            metrics["accuracy"].update(right.float())
            metrics["consistency"].update(batch.tensors["groups"], right)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return each sentence's answer, True or False."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"identifier": identifier, "prediction": ANSWERS[label]}
            for identifier, label in zip(batch.identifiers, predicted, strict=True)
        ]

    def write_predictions(self, rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
        """Write lines of identifier,True or identifier,False, as the official evaluation reads."""
        write_csv([(row["identifier"], row["prediction"]) for row in rows], file)

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Each sentence under both of its images, with the predicted and the true answer."""
        assert batch.pairs is not None
        assert input_ids is not None
        predicted = output.predictions["logits"].argmax(-1).tolist()
        labels = batch.tensors["labels"].tolist() if "labels" in batch.tensors else None
        entries = []
        for pair, (text_row, image_row) in enumerate(
            zip(batch.pairs.text_rows.tolist(), batch.pairs.image_rows.tolist(), strict=True)
        ):
            place, which = divmod(pair, 2)
            truth = f" (truth: {ANSWERS[labels[place]]})" if labels else ""
            text = readable(self.tokenizer, input_ids[text_row])
            line = f"{ANSWERS[predicted[place]]}{truth}, image {which + 1} of 2: {text}"
            entries.append(PanelEntry(image_row, (line,)))
        return entries


class Consistency(Metric):  # type: ignore[misc]
    """Share of the groups of examples in which every example is right."""

    full_state_update = False
    groups: list[Tensor]
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("groups", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        # A rank without examples joins in gathering all the same, and so needs the type.
        self.groups.append(torch.zeros(0, dtype=torch.int64, device=self.device))
        self.right.append(torch.zeros(0, dtype=torch.int64, device=self.device))

    def update(self, groups: Tensor, right: Tensor) -> None:
        """Add examples.

        Args:
            groups: The group of each, (examples,), int64.
            right: Whether it is right, (examples,), bool.
        """
        self.groups.append(groups)
        self.right.append(right.long())

    def compute(self) -> Tensor:
        """Return the share; NaN if there is no example."""
        groups, right = (
            torch.cat(value) if isinstance(value, list) else value
            for value in (self.groups, self.right)
        )
        all_groups, wrong_groups = set(groups.tolist()), set(groups[right == 0].tolist())
        share = 1 - len(wrong_groups) / len(all_groups) if all_groups else float("nan")
        return torch.tensor(share, device=self.device)


def _group(sample: KeyedSample) -> int:
    """Return a number for what the official evaluation counts as one sentence.

    That is a sentence of a set of images, dev-850 of dev-850-0-1, whichever pair of the set it is
    shown with. The text stands for its number in the identifier, which files may lack.
    """
    which_set = sample.sample.labels["identifier"].split("-")[:2]
    key = "\n".join((*which_set, str(sample.sample.text)))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
