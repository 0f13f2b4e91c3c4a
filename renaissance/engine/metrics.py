"""Losses and metrics, accumulated on the device and read on the host only when logged."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, SumMetric

from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.data.collate import MicroBatch


def weighted_loss(
    outputs: Mapping[str, ObjectiveOutput],
    num_targets: Mapping[str, float],
    loss_weights: Mapping[str, float],
) -> Tensor:
    """Return the loss of a micro-batch: its share of the loss of the whole global batch.

    Sums are divided by the number of targets of the global batch, on all ranks and in all
    micro-batches, so the loss is a mean over targets and not a mean of means.

    Args:
        outputs: By objective.
        num_targets: Targets of the whole global batch, by objective.
        loss_weights: By objective.
    """
    losses = [
        loss_weights[name] * output.loss_sum / num_targets[name] for name, output in outputs.items()
    ]
    return torch.stack(losses).sum()


class MetricBook:
    """Each objective's loss and metrics over a window of micro-batches, over all ranks.

    Args:
        objectives: The objectives, by name.
        loss_weights: Their loss weights.
        device: Device of the accumulators.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        loss_weights: Mapping[str, float],
        device: torch.device,
    ) -> None:
        self._objectives = objectives
        self._loss_weights = loss_weights
        self._loss_sums = {name: SumMetric(nan_strategy="disable") for name in objectives}
        self._num_targets = {name: SumMetric(nan_strategy="disable") for name in objectives}
        self._metrics = {name: objective.metrics() for name, objective in objectives.items()}
        for metric in self._all():
            metric.to(device)

    def update(self, batch: MicroBatch, outputs: Mapping[str, ObjectiveOutput]) -> None:
        """Add a micro-batch."""
        for name, output in outputs.items():
            self._loss_sums[name].update(output.loss_sum.detach().double())
            self._num_targets[name].update(batch.objectives[name].num_targets)
            self._objectives[name].update_metrics(
                self._metrics[name], batch.objectives[name], output
            )

    def compute(self) -> dict[str, float]:
        """Return "loss", "<objective>/loss" and "<objective>/<metric>"; every rank must call it.

        An objective without targets is left out; so is the loss if no objective has any.
        """
        results: dict[str, float] = {"loss": 0.0}
        for name in self._objectives:
            num_targets = float(self._num_targets[name].compute())
            if num_targets == 0:
                continue
            loss = float(self._loss_sums[name].compute()) / num_targets
            results[f"{name}/loss"] = loss
            results["loss"] += self._loss_weights[name] * loss
            for metric_name, metric in self._metrics[name].items():
                value = metric.compute()
                # A matrix is for a picture alone.
                if value.numel() == 1:
                    results[f"{name}/{metric_name}"] = float(value)
        return results if len(results) > 1 else {}

    def num_targets(self) -> dict[str, int]:
        """Return the number of targets by objective, over all ranks; every rank must call it."""
        return {name: round(float(total.compute())) for name, total in self._num_targets.items()}

    def pictures(self) -> dict[str, Image.Image]:
        """Return the pictures of the metrics, which were computed, by "<objective>/<picture>"."""
        return {
            f"{name}/{picture}": image
            for name, objective in self._objectives.items()
            if float(self._num_targets[name].compute()) > 0
            for picture, image in objective.pictures(self._metrics[name]).items()
        }

    def reset(self) -> None:
        """Begin a new window."""
        for metric in self._all():
            metric.reset()

    def _all(self) -> list[Metric]:
        of_losses = [*self._loss_sums.values(), *self._num_targets.values()]
        of_objectives = [metric for named in self._metrics.values() for metric in named.values()]
        return of_losses + of_objectives
