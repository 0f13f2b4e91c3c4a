"""The base of objectives that choose one class per sample."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance.contracts.batches import BatchBuilder, ObjectiveBatch, Pairs
from renaissance.contracts.features import Features
from renaissance.contracts.objective import Objective, ObjectiveOutput, PanelEntry
from renaissance.contracts.samples import KeyedSample
from renaissance.errors import PluginError

if TYPE_CHECKING:
    from torchmetrics import Metric


def accuracy() -> "Metric":
    """Return a new metric: the mean of one value per target.

    Update it with 1.0 for each correct prediction and 0.0 for each wrong one. A NaN makes the mean
    NaN, since looking for NaNs would synchronize with the device at every step.
    """
    # Imported here because it takes a second, and only runs need it.
    from torchmetrics import MeanMetric

    return MeanMetric(nan_strategy="disable")


class Classification(Objective):
    """An objective that chooses one class per sample.

    A subclass defines `classes` and `logits`. Every other method has a default: each text is paired
    with its sample's first image, the loss is cross-entropy, the metric is accuracy, and samples
    without labels are only predicted.

    Attributes:
        classes: Names of the classes, in the order of the logits; empty to write class indices
            into predictions. Set it per instance if it depends on the options.
        identifier: Label that identifies a sample in predictions; None for its index in the split.
        prediction: Key of the predicted class in predictions.
    """

    classes: Sequence[str] = ()
    identifier: ClassVar[str | None] = None
    prediction: ClassVar[str] = "prediction"

    @abstractmethod
    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Return the logits, (samples, classes), floating point."""

    def target(self, sample: KeyedSample) -> int | Tensor:
        """Return the target of one sample: by default, its label, the index of its class.

        Raises:
            PluginError: If `labels` does not name one label.
        """
        if len(self.labels) != 1:
            raise PluginError(
                f"{type(self).__name__}.labels names {len(self.labels)} labels, expected the one "
                "that holds the index of the class; set labels = frozenset({'...'}), or override "
                "target(sample)"
            )
        (name,) = self.labels
        return int(sample.labels[name])

    def identify(self, sample: KeyedSample) -> object:
        """Return the sample's identifier in predictions, a value that JSON can hold."""
        return sample.index if self.identifier is None else sample.labels[self.identifier]

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sample's text with its first image."""
        return self.batch_of(samples, Pairs.one_per_sample(samples, builder))

    def batch_of(
        self,
        samples: Sequence[KeyedSample],
        pairs: Pairs | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> ObjectiveBatch:
        """Return a batch with the samples' identifiers, and their targets if all have labels.

        Args:
            samples: The samples.
            pairs: The pairs to fuse, if any.
            tensors: Further tensors that `logits` needs; the targets are added as "labels".
        """
        is_labelled = all(self.labels <= sample.labels.keys() for sample in samples)
        all_tensors = dict(tensors or {})
        if is_labelled:
            all_tensors["labels"] = torch.stack([torch.as_tensor(self.target(s)) for s in samples])
        return ObjectiveBatch(
            num_targets=len(samples) if is_labelled else 0,
            pairs=pairs,
            tensors=all_tensors,
            identifiers=tuple(self.identify(sample) for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Return the loss, which is 0 without labels, and the logits."""
        logits = self.logits(batch, features)
        if "labels" in batch.tensors:
            loss_sum = self.loss(logits.float(), batch.tensors["labels"])
        else:
            # A loss of 0 that depends on the logits. Not their sum: the logit of a class that
            # cannot be chosen is minus infinity, and infinity times 0 is NaN.
            loss_sum = logits.float().amax(-1).sum() * 0
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss summed over the samples: by default, cross-entropy.

        Args:
            logits: (samples, classes), float32.
            labels: The targets, (samples,), int64.
        """
        return F.cross_entropy(logits, labels, reduction="sum")

    def score(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Return the score of each prediction, from 0 to 1, (samples,): by default, 0 or 1.

        Args:
            predicted: Indices of the predicted classes, (samples,), int64.
            labels: The targets.
        """
        return (predicted == labels).float()

    def true_classes(self, labels: Tensor) -> Tensor:
        """Return the indices of the true classes, (samples,): by default, the targets."""
        return labels

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy: the mean of `score`."""
        return {"accuracy": accuracy()}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add the scores of one micro-batch, if it has labels."""
        if "labels" in batch.tensors:
            predicted = output.predictions["logits"].argmax(-1)
            metrics["accuracy"].update(self.score(predicted, batch.tensors["labels"]))

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return the predicted class of each sample."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {self.identifier or "index": identifier, self.prediction: self.class_name(index)}
            for identifier, index in zip(batch.identifiers, predicted, strict=True)
        ]

    def class_name(self, index: int) -> str | int:
        """Return the name of a class, or its index if the classes have no names."""
        return self.classes[index] if self.classes else index

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Describe each pair below its image; empty if there are no pairs."""
        if batch.pairs is None:
            return []
        return [
            PanelEntry(image_row, (self.describe(texts[text_row], verdict),))
            for verdict, (text_row, image_row) in zip(
                self.verdicts(batch, output), batch.pairs.rows(), strict=True
            )
        ]

    def describe(self, text: str, verdict: str) -> str:
        """Return the panel's line for a text and its verdict."""
        return f"{verdict}: {text}"

    def verdicts(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[str]:
        """Return the name of each sample's predicted class, and of the true one if known."""
        verdicts = [
            str(self.class_name(index))
            for index in output.predictions["logits"].argmax(-1).tolist()
        ]
        if "labels" not in batch.tensors:
            return verdicts
        true = self.true_classes(batch.tensors["labels"]).tolist()
        return [
            f"{verdict} (truth: {self.class_name(index)})"
            for verdict, index in zip(verdicts, true, strict=True)
        ]
