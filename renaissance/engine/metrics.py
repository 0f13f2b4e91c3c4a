"""Losses and metrics, accumulated on the device and read on the host only when logged."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, SumMetric

from renaissance.contracts.objective import Objective, ObjectiveOutput
from renaissance.data.micro_batch import MicroBatch


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
        # Apple's GPUs have no float64.
        self._widest = torch.float32 if device.type == "mps" else torch.float64
        self._loss_sums = {name: SumMetric(nan_strategy="disable") for name in objectives}
        self._num_targets = {name: SumMetric(nan_strategy="disable") for name in objectives}
        self._metrics = {name: objective.metrics() for name, objective in objectives.items()}
        for key, metric in self._all().items():
            # Targets are counted on the host: a number that goes to the device is waited for.
            metric.to("cpu" if key.startswith("targets/") else device)
            for part in metric.modules():
                if isinstance(part, Metric):
                    part.persistent(True)

    def update(self, batch: MicroBatch, outputs: Mapping[str, ObjectiveOutput]) -> None:
        """Add a micro-batch."""
        for name, output in outputs.items():
            self._loss_sums[name].update(output.loss_sum.detach().to(self._widest))
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
            figures = {"loss": float(self._loss_sums[name].compute()) / num_targets}
            for metric_name, metric in self._metrics[name].items():
                value = metric.compute()
                if isinstance(value, dict):
                    # A metric of several figures may have the loss among them.
                    figures |= value
                # A matrix is for a picture alone.
                elif value.numel() == 1:
                    figures[metric_name] = float(value)
            results["loss"] += self._loss_weights[name] * figures["loss"]
            results |= {f"{name}/{figure}": value for figure, value in figures.items()}
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
        for metric in self._all().values():
            metric.reset()

    def state(self) -> dict[str, Tensor]:
        """Return this rank's figures of the window so far, on the CPU."""
        return {
            f"{key}/{name}": tensor.detach().cpu().contiguous()
            for key, metric in self._all().items()
            for name, value in metric.state_dict().items()
            for name, tensor in _tensors(name, value)
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue a window, of which this rank's `state` was saved, by the same objectives."""
        for key, metric in self._all().items():
            saved = {
                name.removeprefix(f"{key}/"): tensor.to(metric.device)
                for name, tensor in state.items()
                if name.startswith(f"{key}/")
            }
            entries: dict[str, Tensor | list[Tensor]] = {}
            for name, value in metric.state_dict().items():
                if isinstance(value, Tensor):
                    entries[name] = saved.get(name, value)
                else:
                    entries[name] = _list(name, saved)
            metric.load_state_dict(entries)

    def _all(self) -> dict[str, Metric]:
        """Return all metrics, by names that are unique."""
        return {
            **{f"loss/{name}": metric for name, metric in self._loss_sums.items()},
            **{f"targets/{name}": metric for name, metric in self._num_targets.items()},
            **{
                f"metric/{name}/{metric_name}": metric
                for name, named in self._metrics.items()
                for metric_name, metric in named.items()
            },
        }


def _tensors(name: str, value: Tensor | Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Return the tensors of a state, which may be a list of them, each with a name."""
    if isinstance(value, Tensor):
        return [(name, value)]
    return [(f"{name}[{index}]", tensor) for index, tensor in enumerate(value)]


def _list(name: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    names = (f"{name}[{index}]" for index in itertools.count())
    return [tensors[n] for n in itertools.takewhile(tensors.__contains__, names)]
