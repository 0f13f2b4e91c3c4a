"""Losses and metrics, accumulated on the device and read on the host only when logged."""

from collections.abc import Mapping

import torch
from torchmetrics import Metric, SumMetric

from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.data.collate import MicroBatch


class MetricBook:
    """Each objective's loss and metrics over a window of micro-batches, over all ranks.

    Args:
        objectives: The objectives, by name.
        weights: Their loss weights.
        device: Where the accumulators live.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        weights: Mapping[str, float],
        device: torch.device,
    ) -> None:
        self._objectives = objectives
        self._weights = weights
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

        An objective that had no target is left out, and the loss where none had any.
        """
        results: dict[str, float] = {"loss": 0.0}
        for name in self._objectives:
            num_targets = float(self._num_targets[name].compute())
            if num_targets == 0:
                continue
            loss = float(self._loss_sums[name].compute()) / num_targets
            results[f"{name}/loss"] = loss
            results["loss"] += self._weights[name] * loss
            for metric_name, metric in self._metrics[name].items():
                results[f"{name}/{metric_name}"] = float(metric.compute())
        return results if len(results) > 1 else {}

    def reset(self) -> None:
        """Begin a new window."""
        for metric in self._all():
            metric.reset()

    def _all(self) -> list[Metric]:
        own = [*self._loss_sums.values(), *self._num_targets.values()]
        return own + [metric for metrics in self._metrics.values() for metric in metrics.values()]
