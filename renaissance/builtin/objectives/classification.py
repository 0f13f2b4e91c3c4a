"""What the classification tasks share."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from renaissance import BatchBuilder, KeyedSample, ObjectiveBatch, ObjectiveOutput, Pairs


def labelled(samples: Sequence[KeyedSample], labels: Iterable[str]) -> bool:
    """Return whether all samples have these labels; without, they can only be predicted."""
    wanted = frozenset(labels)
    return all(wanted <= sample.sample.labels.keys() for sample in samples)


def one_pair_a_sample(samples: Sequence[KeyedSample], builder: BatchBuilder) -> Pairs:
    """Ask for each sample's text with its first image."""
    return Pairs(
        text_rows=torch.tensor([builder.text(sample) for sample in samples]),
        image_rows=torch.tensor([builder.image(sample) for sample in samples]),
    )


def cross_entropy_sum(logits: Tensor, labels: Tensor | None) -> Tensor:
    """Return the cross-entropy summed over the targets; 0 without labels.

    Args:
        logits: (targets, classes), floating point.
        labels: (targets,), int64.
    """
    if labels is None:
        return logits.float().sum() * 0
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def update_accuracy(
    metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
) -> None:
    """Add which of a micro-batch's best logits are the labels; nothing without labels."""
    if "labels" in batch.tensors:
        right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
        metrics["accuracy"].update(right.float())


def write_csv(rows: Iterable[Sequence[object]], file: TextIO) -> None:
    """Write rows as comma-separated values."""
    csv.writer(file, lineterminator="\n").writerows(rows)
