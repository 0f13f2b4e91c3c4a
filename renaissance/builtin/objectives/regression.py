"""Regression: a number for pictures, texts or both."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance import (
    BatchBuilder,
    DataError,
    Features,
    Guess,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    PanelEntry,
    number,
    option,
)
from renaissance.builtin.objectives.modalities import Inputs, identify, modalities_option

if TYPE_CHECKING:
    from torchmetrics import Metric


class Regression(Objective):
    """Predicts a number, a label of the data.

    The head learns the label less its mean, in units of its standard deviation, both of the
    training data; the loss is the squared error in these units. So learning rates that suit a
    classification suit labels of any size. Predictions and metrics are in the label's own units:
    mean squared error, and the correlations of Pearson and Spearman.
    """

    requires = frozenset[str]()
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `regression`."""

        label: str = option("label", help="Name of the label: a column of the data.")
        modalities: tuple[Literal["text", "image"], ...] = modalities_option()

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.label = options.label
        self.inputs = Inputs.of(options.modalities, context.data)
        self.requires = frozenset[str](self.inputs.modalities)
        self.unimodal = self.inputs.unimodal
        self.labels = frozenset({options.label})
        self.distribution = context.data.distribution(options.label)
        self.head = context.make_head(self.inputs.size(context.sizes), 1)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Request what it reads of each sample.

        Raises:
            DataError: If a label is not a finite number.
        """
        pairs, tensors = self.inputs.rows(samples, builder)
        is_labelled = all(self.label in sample.labels for sample in samples)
        if is_labelled:
            targets = [self._target(sample) for sample in samples]
            # On their way to float32, large numbers would lose what tells them apart.
            tensors["labels"] = torch.tensor(targets, dtype=torch.float64)
        return ObjectiveBatch(
            num_targets=len(samples) if is_labelled else 0,
            pairs=pairs,
            tensors=tensors,
            identifiers=tuple(identify(sample) for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Return the squared error, which is 0 without labels, and the predictions."""
        scores = self.head(self.inputs.vectors(batch, features))[:, 0].float()
        if "labels" in batch.tensors:
            targets = self._standardized(batch.tensors["labels"])
            loss_sum = F.mse_loss(scores, targets, reduction="sum")
        else:
            loss_sum = scores.sum() * 0
        return ObjectiveOutput(loss_sum, {"scores": scores.detach()})

    def metrics(self) -> "dict[str, Metric]":
        """Return the mean squared error, and the correlations of Pearson and Spearman."""
        # Imported here because it takes a second, and only runs need it.
        from torchmetrics import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

        with warnings.catch_warnings():
            # It warns every time that it keeps all values; those of a split take little memory.
            warnings.simplefilter("ignore")
            spearman = SpearmanCorrCoef()
        return {"mse": MeanSquaredError(), "pearson": PearsonCorrCoef(), "spearman": spearman}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch, if it has labels."""
        if "labels" not in batch.tensors:
            return
        scores, labels = output.predictions["scores"], batch.tensors["labels"]
        metrics["mse"].update(self._values(scores), labels)
        # These do not depend on the unit, and TorchMetrics keeps float32, in which large numbers
        # that differ little are equal.
        for name in ("pearson", "spearman"):
            metrics[name].update(scores, self._standardized(labels))

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return each sample's id or index, and the number predicted."""
        values = self._values(output.predictions["scores"]).tolist()
        return [
            {**identifier, "prediction": value}
            for identifier, value in zip(batch.identifiers, values, strict=True)
            if isinstance(identifier, dict)
        ]

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return the predicted and the true number of each sample that has an image."""
        lines = [f"{value:.6g}" for value in self._values(output.predictions["scores"]).tolist()]
        if "labels" in batch.tensors:
            true = batch.tensors["labels"].tolist()
            lines = [f"{line} (truth: {t:.6g})" for line, t in zip(lines, true, strict=True)]
        return [
            PanelEntry(row, (*([text] if text else []), Guess(line)))
            for line, (row, text) in zip(lines, self.inputs.shown(batch, texts), strict=False)
        ]

    def _standardized(self, labels: Tensor) -> Tensor:
        """Return labels as the head learns them, float32."""
        return ((labels.double() - self.distribution.mean) / self.distribution.std).float()

    def _values(self, scores: Tensor) -> Tensor:
        """Return what the head says in the unit of the labels, float64."""
        return scores.double() * self.distribution.std + self.distribution.mean

    def _target(self, sample: KeyedSample) -> float:
        try:
            return number(sample.labels[self.label])
        except ValueError as error:
            raise DataError(
                f"{sample.source}: label '{self.label}' {error}. Correct the row, or leave it out"
            ) from error
