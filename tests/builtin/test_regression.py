"""Numbers as labels: their scale, the loss, the metrics, against NumPy and SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from support.answering import collate, forward, measured, objective, sample, shown
from torch import nn

from renaissance import DataError, ObjectiveOutput, Sample
from renaissance.builtin.objectives.regression import Regression
from renaissance.testing import check_objective

TEXTS = ["a photo", "two elephants", "one umbrella", "swimming nearby and swimming"]
AGES = [2001.5, 1999, "2010", 2003.25, 2000, 2007, 1998, 2004]


def samples(labels: list[Any]) -> list[Sample]:
    return [sample(TEXTS[n % 4], {"label": v}, n) for n, v in enumerate(labels)]


class FirstOnly(nn.Module):
    """The first number of each vector as the only output."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, :1]


def made(**options: Any) -> Any:
    return objective(Regression, head=FirstOnly(), training=samples(AGES), **options)


def output_of(values: list[float]) -> ObjectiveOutput:
    """Return the output that predicts some values."""
    numbers = [float(age) for age in AGES]
    scores = (np.array(values) - np.mean(numbers)) / np.std(numbers)
    return ObjectiveOutput(torch.zeros(()), {"scores": torch.tensor(scores).float()})


@pytest.mark.parametrize("modalities", [(), ("text",), ("image",)])
def test_the_contract(modalities: tuple[Any, ...]) -> None:
    check_objective(Regression, Regression.Options(modalities=modalities), samples=samples(AGES))


def test_the_loss_is_in_standard_deviations_and_values_in_the_labels_unit() -> None:
    task = made()
    numbers = np.array([float(age) for age in AGES])
    batch = collate(task, samples(AGES[:3])).objectives["task"]
    assert batch.num_targets == 3
    scores = [0.5, -1.0, 2.0]
    output = forward(task, batch, torch.tensor([[score, 7.0, 7.0] for score in scores]))
    standardized = (numbers[:3] - numbers.mean()) / numbers.std()
    expected = float(np.sum((np.array(scores) - standardized) ** 2))
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-5)
    values = numbers.mean() + numbers.std() * np.array(scores)
    assert [row["prediction"] for row in task.predictions(batch, output)] == pytest.approx(
        list(values), rel=1e-9
    )


@pytest.mark.parametrize("sizes", [(8,), (3, 5), (1, 6, 1)])
def test_metrics_are_those_of_scipy(sizes: tuple[int, ...]) -> None:
    task = made()
    labels = np.array([float(age) for age in AGES])
    # With equal values, which share their rank.
    values = torch.tensor([2000.0, 2000.0, 2008.0, 2002.0, 2003.0, 2004.0, 1990.0, 2008.0])
    steps, first = [], 0
    for size in sizes:
        batch = collate(task, samples(AGES[first : first + size])).objectives["task"]
        steps.append((batch, output_of(values[first : first + size].tolist())))
        first += size
    assert measured(task, steps) == pytest.approx(
        {
            "mse": float(np.mean((values.numpy() - labels) ** 2)),
            "pearson": float(pearsonr(values, labels)[0]),
            "spearman": float(spearmanr(values, labels)[0]),
        },
        rel=1e-6,
    )


def test_the_panel() -> None:
    task = made()
    micro_batch = collate(task, samples(AGES[:2]))
    output = output_of([2000.5, 2003.25])
    assert shown(task, micro_batch, output) == [
        (0, "a photo: 2000.5 (truth: 2001.5)", None),
        (1, "two elephants: 2003.25 (truth: 1999)", None),
    ]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "given: 1: label 'label' is missing (None). Correct the row, or leave it out"),
        (
            float("nan"),
            "given: 1: label 'label' is missing (nan). Correct the row, or leave it out",
        ),
        (" ", "given: 1: label 'label' is missing (' '). Correct the row, or leave it out"),
        (
            "old",
            "given: 1: label 'label' is 'old', expected a number. Correct the row, or leave it",
        ),
        ("inf", "given: 1: label 'label' is 'inf', expected a finite number. Correct the row, or"),
        (True, "given: 1: label 'label' is True, expected a finite number. Correct the row, or"),
        ([1.0], "given: 1: label 'label' is [1.0], expected a number. Correct the row, or leave"),
    ],
)
def test_a_label_that_is_not_a_number(label: Any, message: str) -> None:
    for refusing in (
        lambda: collate(made(), samples([2000, label])),
        lambda: objective(Regression, training=samples([2000, label])),
    ):
        with pytest.raises(DataError) as caught:
            refusing()
        assert str(caught.value).startswith(message)


def test_large_labels_keep_their_order() -> None:
    # In float32, neighbours among these are equal.
    seconds = [1_700_000_000.0 + number for number in (3, 1, 2, 0)]
    task = objective(Regression, head=FirstOnly(), training=samples(seconds))
    batch = collate(task, samples(seconds)).objectives["task"]
    scores = torch.tensor([0.3, 0.1, 0.2, 0.0])
    step = (batch, ObjectiveOutput(torch.zeros(()), {"scores": scores}))
    found = measured(task, [step])
    assert found["spearman"] == pytest.approx(1, abs=1e-5)
    assert found["pearson"] == pytest.approx(1, abs=1e-5)
    values = np.mean(seconds) + np.std(seconds) * scores.double().numpy()
    assert found["mse"] == pytest.approx(float(np.mean((values - seconds) ** 2)), rel=1e-5)
