"""The base of objectives that choose one class per sample, or any number of classes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from renaissance.confusion_matrix import draw_confusion_matrix
from renaissance.contracts.batches import BatchBuilder, ObjectiveBatch, Pairs
from renaissance.contracts.features import Features
from renaissance.contracts.monitor import Guess
from renaissance.contracts.objective import Objective, ObjectiveOutput, PanelEntry
from renaissance.contracts.samples import KeyedSample
from renaissance.errors import PluginError

if TYPE_CHECKING:
    from torchmetrics import Metric

# Name of the metric and of its picture.
CONFUSION = "confusion"


def accuracy() -> "Metric":
    """Return a new metric: the mean of one value per target.

    Update it with 1.0 for each correct prediction and 0.0 for each wrong one. A NaN makes the mean
    NaN, since looking for NaNs would synchronize with the device at every step.
    """
    # Imported here because it takes a second, and only runs need it.
    from torchmetrics import MeanMetric

    return MeanMetric(nan_strategy="disable")


class Classification(Objective):
    """An objective that chooses one class per sample, or any number of classes.

    A subclass defines `classes` and `logits`. Every other method has a default: each text is paired
    with its sample's first image, the loss is cross-entropy, the metric is accuracy, and samples
    without labels are only predicted.

    Set attributes per instance if they depend on the options.

    Attributes:
        classes: Names of the classes, in the order of the logits; empty to write class indices
            into predictions.
        multi_label: True if a sample may have any number of classes. Targets are then 0 or 1 for
            each class, (classes,), float32; the loss is binary cross-entropy, summed over the
            classes; a class is predicted if its probability is at least one half; and a prediction
            is right if all classes are.
        has_class_metrics: True to measure macro F1, AUROC and a confusion matrix as well; they
            need `classes`.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", CVPR 2016).
        class_weights: Factor of the loss of each class, (classes,); of its positive targets if
            `multi_label`. The loss is still averaged over the samples, not over their weights.
        identifier: Label that identifies a sample in predictions; None for its index in the split.
        prediction: Key of the predicted class in predictions.
    """

    classes: Sequence[str] = ()
    multi_label: bool = False
    has_class_metrics: bool = False
    label_smoothing: float = 0.0
    class_weights: Tensor | None
    identifier: ClassVar[str | None] = None
    prediction: ClassVar[str] = "prediction"

    def __init__(self) -> None:
        super().__init__()
        # It moves with the module, but is not a parameter of the checkpoint.
        self.register_buffer("class_weights", None, persistent=False)

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
            labels: The targets, (samples,), int64, or (samples, classes) if `multi_label`.
        """
        if not self.multi_label:
            return F.cross_entropy(
                logits,
                labels,
                weight=self.class_weights,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
        smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            logits, smooth, pos_weight=self.class_weights, reduction="sum"
        )

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the predicted class of each sample, (samples,), int64.

        If `multi_label`, return for each class whether it is predicted, (samples, classes), bool.
        """
        return logits >= 0 if self.multi_label else logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, (samples, classes), float32."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(-1)

    def score(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Return the score of each prediction, from 0 to 1, (samples,): by default, 0 or 1.

        Args:
            predicted: What `predicted` returned.
            labels: The targets.
        """
        is_right = predicted == labels
        return (is_right.all(-1) if self.multi_label else is_right).float()

    def true_classes(self, labels: Tensor) -> Tensor:
        """Return the true classes in the form of `predicted`: by default, the targets."""
        return labels

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy, the mean of `score`, and the metrics of `has_class_metrics`."""
        metrics = {"accuracy": accuracy()}
        if self.has_class_metrics:
            from renaissance.contracts.class_metrics import class_metrics

            metrics |= class_metrics(len(self.classes), self.multi_label)
        return metrics

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add the scores of one micro-batch, if it has labels."""
        if "labels" not in batch.tensors:
            return
        logits, labels = output.predictions["logits"], batch.tensors["labels"]
        predicted = self.predicted(logits)
        metrics["accuracy"].update(self.score(predicted, labels))
        if self.has_class_metrics:
            true = self.true_classes(labels).long()
            metrics["macro_f1"].update(predicted.long(), true)
            if "auroc" in metrics:
                metrics["auroc"].update(self.probabilities(logits), true)
            if CONFUSION in metrics:
                metrics[CONFUSION].update(predicted, true)

    def sample_scores(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> dict[str, Tensor]:
        """Return each sample's score, of which the accuracy is the mean, if it has a label."""
        if "labels" not in batch.tensors:
            return {}
        predicted = self.predicted(output.predictions["logits"])
        return {"accuracy": self.score(predicted, batch.tensors["labels"])}

    def pictures(self, metrics: "Mapping[str, Metric]") -> dict[str, Image.Image]:
        """Return the confusion matrix, if it is measured."""
        if CONFUSION not in metrics:
            return {}
        counts = metrics[CONFUSION].compute().tolist()
        return {CONFUSION: draw_confusion_matrix(counts, self.classes)}

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return the predicted class of each sample, or the list of its classes."""
        predicted = self.predicted(output.predictions["logits"]).tolist()
        return [
            {self.identifier or "index": identifier, self.prediction: self.named(chosen)}
            for identifier, chosen in zip(batch.identifiers, predicted, strict=True)
        ]

    def named(self, chosen: int | Sequence[bool]) -> str | int | list[str | int]:
        """Return the name of one sample's class in the form of `predicted`, or its classes."""
        if isinstance(chosen, int):
            return self.class_name(chosen)
        return [self.class_name(index) for index, is_chosen in enumerate(chosen) if is_chosen]

    def class_name(self, index: int) -> str | int:
        """Return the name of a class, or its index if the classes have no names."""
        return self.classes[index] if self.classes else index

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Write each sample's text, if it has one, and the guess below its image.

        Without pairs, the images are those of the tensor "image_rows"; without that, there is
        nothing to show.
        """
        shown: list[tuple[int, tuple[str, ...]]]
        if batch.pairs is not None:
            rows = batch.fused_pairs.rows()
            shown = [(image_row, (texts[text_row],)) for text_row, image_row in rows]
        elif "image_rows" in batch.tensors:
            shown = [(image_row, ()) for image_row in batch.tensors["image_rows"].tolist()]
        else:
            return []
        groups = self.true_names(batch) or [""] * len(shown)
        return [
            PanelEntry(image_row, (*text, guess), str(group))
            for guess, group, (image_row, text) in zip(
                self.guesses(batch, output), groups, shown, strict=True
            )
        ]

    def guesses(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[Guess]:
        """Return each sample's predicted class with its probability, and the true one if known."""
        logits = output.predictions["logits"]
        predicted = self.predicted(logits)
        texts = names = [self._in_words(chosen) for chosen in predicted.tolist()]
        if not self.multi_label:
            chances = self.probabilities(logits).gather(-1, predicted[:, None])[:, 0].tolist()
            texts = [f"{name} {chance:.2f}" for name, chance in zip(names, chances, strict=True)]
        truth = self.true_names(batch)
        if truth is None:
            return [Guess(text) for text in texts]
        is_right = (self.score(predicted, batch.tensors["labels"]) > 0).tolist()
        return [
            Guess(text if name == true else f"{text} (truth: {true})", right)
            for text, name, true, right in zip(texts, names, truth, is_right, strict=True)
        ]

    def true_names(self, batch: ObjectiveBatch) -> list[str] | None:
        """Return the name of each sample's true class; None if the batch has no labels."""
        if "labels" not in batch.tensors:
            return None
        true = self.true_classes(batch.tensors["labels"]).tolist()
        return [self._in_words(chosen) for chosen in true]

    def _in_words(self, chosen: int | Sequence[bool]) -> str:
        names = self.named(chosen)
        if isinstance(names, list):
            return ", ".join(map(str, names)) or "none"
        return str(names)
