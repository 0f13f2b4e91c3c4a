"""What all classification tasks promise, against numbers counted by hand."""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from support.answering import (
    POOLED,
    collate,
    forward,
    measured,
    objective,
    sample,
    shown,
    written,
)
from support.tasks import TASKS, Task
from torch import Tensor, nn

from renaissance import (
    Classification,
    Features,
    ObjectiveBatch,
    ObjectiveContext,
    PluginError,
    accuracy,
)
from renaissance.testing import check_objective


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def make(task: Task, folder: Path) -> Any:
    return objective(task.component, task.root(folder), task.head)


def steps(task: Task, made: Any, sizes: Sequence[int]) -> list[Any]:
    """Run the objective on micro-batches of these sizes: the batch and the output of each."""
    found, first, first_pair = [], 0, 0
    for size in sizes:
        batch = collate(made, task.samples[first : first + size]).objectives["task"]
        num_pairs = len(batch.fused_pairs.text_rows)
        pooled = task.pooled[first_pair : first_pair + num_pairs]
        found.append((batch, forward(made, batch, pooled)))
        first, first_pair = first + size, first_pair + num_pairs
    return found


def test_the_loss(task: Task, tmp_path: Path) -> None:
    made = make(task, tmp_path)
    ((batch, output),) = steps(task, made, [4])
    assert batch.num_targets == 4
    assert output.predictions["logits"].tolist() == task.logits
    assert float(output.loss_sum) == pytest.approx(sum(task.losses), rel=1e-5)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 3)])
def test_metrics_and_predictions(task: Task, sizes: Sequence[int], tmp_path: Path) -> None:
    made = make(task, tmp_path)
    found = steps(task, made, sizes)
    assert measured(made, found) == pytest.approx(task.metrics)
    rows = [row for batch, output in found for row in made.predictions(batch, output)]
    assert written(made, rows) == task.file


def test_without_labels(task: Task, tmp_path: Path) -> None:
    made = make(task, tmp_path)
    micro_batch = collate(made, task.unlabelled())
    batch = micro_batch.objectives["task"]
    assert batch.num_targets == 0
    pooled = task.pooled.clone().requires_grad_()
    output = forward(made, batch, pooled)
    # Neither learnt from ...
    assert float(output.loss_sum.detach()) == 0
    output.loss_sum.backward()
    assert pooled.grad is not None
    assert pooled.grad.abs().max() == 0
    # ... nor measured, but predicted as with labels.
    metrics = made.metrics()
    made.update_metrics(metrics, batch, output)
    assert [metric.update_called for metric in metrics.values()] == [False] * len(metrics)
    assert written(made, made.predictions(batch, output)) == task.file
    assert shown(made, micro_batch, output) == task.panel_without_labels


def test_the_panel(task: Task, tmp_path: Path) -> None:
    made = make(task, tmp_path)
    micro_batch = collate(made, task.samples)
    output = forward(made, micro_batch.objectives["task"], task.pooled)
    assert shown(made, micro_batch, output) == task.panel


class Plain(Classification):
    """As little as a task can say."""

    requires = frozenset({"text", "image"})
    labels = frozenset({"kind"})
    default_head = "linear"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, POOLED)

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        return self.head(features.pooled)


class Named(Plain):
    """With names for its classes."""

    classes = ("cat", "dog", "cow")


PLAIN_SAMPLES = [sample("a photo", {"kind": number % 3}, number) for number in range(4)]


@pytest.mark.parametrize("component", [Plain, Named])
def test_a_task_that_says_no_more_than_it_must(component: type[Plain]) -> None:
    check_objective(component, samples=PLAIN_SAMPLES)
    made = objective(component, head=nn.Identity())
    micro_batch = collate(made, PLAIN_SAMPLES[1:3])
    batch = micro_batch.objectives["task"]
    output = forward(made, batch, torch.eye(3)[[1, 0]])
    names = [made.class_name(index) for index in range(3)]
    assert names == [[0, 1, 2], ["cat", "dog", "cow"]][component is Named]
    # The index of a sample names it.
    assert made.predictions(batch, output) == [
        {"index": 0, "prediction": names[1]},
        {"index": 1, "prediction": names[0]},
    ]
    assert shown(made, micro_batch, output) == [
        (0, f"a photo: {names[1]}", True),
        (1, f"a photo: {names[0]} (truth: {names[2]})", False),
    ]
    first, second = made.panel(batch, output, ["a photo", "a photo"])
    # Softmax of 1, 0, 0.
    chance = math.e / (math.e + 2)
    assert str(first.lines[-1]) == f"{names[1]} {chance:.2f}"
    assert (first.group, second.group) == (str(names[1]), str(names[2]))


@pytest.mark.parametrize("labels", [frozenset(), frozenset({"kind", "colour"})])
def test_labels_that_do_not_name_the_class(labels: frozenset[str]) -> None:
    made = objective(type("Wrong", (Plain,), {"labels": labels}))
    samples = [sample("a photo", {"kind": 1, "colour": 2})]
    with pytest.raises(PluginError) as caught:
        collate(made, samples)
    assert str(caught.value) == (
        f"Wrong.labels names {len(labels)} labels, expected the one that holds the index of the "
        "class; set labels = frozenset({'...'}), or override target(sample)"
    )


def test_accuracy_is_the_mean_and_shows_a_nan() -> None:
    metric = accuracy()
    metric.update(torch.tensor([1.0, 0.0]))
    metric.update(torch.tensor([1.0]))
    assert float(metric.compute()) == pytest.approx(2 / 3)
    metric.update(torch.tensor([torch.nan]))
    assert metric.compute().isnan()


def test_only_making_a_metric_imports_torchmetrics() -> None:
    code = (
        "import sys, renaissance.builtin, renaissance.testing, renaissance.commands.check; "
        "print('torchmetrics' in sys.modules); "
        "renaissance.accuracy(); print('torchmetrics' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.split() == ["False", "True"]


class Detailed(Named):
    """With the metrics and the loss that a task may turn on."""

    has_class_metrics = True
    label_smoothing = 0.3

    def __init__(self, options: Plain.Options, context: ObjectiveContext) -> None:
        super().__init__(options, context)
        self.class_weights = torch.tensor([1.0, 2.0, 1.0])


def test_what_a_task_may_turn_on() -> None:
    check_objective(Detailed, samples=PLAIN_SAMPLES)
    made = objective(Detailed, head=nn.Identity())
    assert "class_weights" not in made.state_dict()
    batch = collate(made, PLAIN_SAMPLES).objectives["task"]
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
    output = forward(made, batch, logits)
    expected = nn.CrossEntropyLoss(
        torch.tensor([1.0, 2.0, 1.0]), reduction="sum", label_smoothing=0.3
    )
    assert float(output.loss_sum) == pytest.approx(
        float(expected(logits, torch.tensor([0, 1, 2, 0]))), rel=1e-5
    )
    metrics = made.metrics()
    made.update_metrics(metrics, batch, output)
    # Cats are right; a cow is taken for a dog.
    assert metrics["confusion"].compute().tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert float(metrics["macro_f1"].compute()) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert list(made.pictures(metrics)) == ["confusion"]
    assert made.pictures({}) == {}
