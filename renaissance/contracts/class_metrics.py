"""Metrics over the classes of a classification; importing torchmetrics takes a second."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import binary_auroc

# Beyond, the picture of a confusion matrix cannot be read.
MAX_CONFUSION_CLASSES = 50
# Beyond, the scores that AUROC keeps take gigabytes for a million samples.
MAX_AUROC_CLASSES = 100


def class_metrics(num_classes: int, multi_label: bool) -> dict[str, Metric]:
    """Return new metrics: macro F1, AUROC, and for one class per sample, the confusion matrix."""
    metrics: dict[str, Metric] = {
        "macro_f1": MultilabelF1Score(num_classes, average="macro", validate_args=False)
        if multi_label
        else MulticlassF1Score(num_classes, average="macro", validate_args=False)
    }
    if num_classes <= MAX_AUROC_CLASSES:
        metrics["auroc"] = MacroAUROC(num_classes)
    if num_classes <= MAX_CONFUSION_CLASSES and not multi_label:
        metrics["confusion"] = MulticlassConfusionMatrix(num_classes, validate_args=False)
    return metrics


class MacroAUROC(Metric):  # type: ignore[misc]
    """Area under the ROC curve, exact: each class against all others, averaged over the classes.

    Classes of which there are no samples, or nothing but samples, have no curve and do not count;
    it is NaN if that is all of them.

    Args:
        num_classes: Number of classes.
    """

    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Flat and float32, as TorchMetrics makes the state of a rank without samples.
        for name in ("scores", "targets"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add samples.

        Args:
            probabilities: (samples, classes).
            targets: The true classes: indices, (samples,), or 0 and 1, (samples, classes).
        """
        if targets.dim() == 1:
            targets = torch.nn.functional.one_hot(targets, self.num_classes)
        self.scores.append(probabilities.float().flatten())
        self.targets.append(targets.float().flatten())

    def compute(self) -> Tensor:
        """Return the mean over the classes."""
        scores, targets = (_joined(state, self.num_classes) for state in self._states())
        is_defined = (targets == 0).any(0) & (targets == 1).any(0)
        areas = [
            binary_auroc(scores[:, index], targets[:, index].long(), validate_args=False)
            for index in is_defined.nonzero()[:, 0].tolist()
        ]
        return torch.stack(areas).mean() if areas else torch.tensor(torch.nan)

    def _states(self) -> tuple[Any, Any]:
        return self.scores, self.targets


def _joined(state: Tensor | list[Tensor], num_classes: int) -> Tensor:
    # One tensor after the ranks have exchanged theirs, a list before.
    joined = state if isinstance(state, Tensor) else torch.cat(state)
    return joined.reshape(-1, num_classes)
