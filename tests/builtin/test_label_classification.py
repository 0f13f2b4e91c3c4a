"""Classes from labels of any kind, their weights and probabilities, against scikit-learn."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from support.answering import collate, forward, objective, predicting, sample, shown
from torch import nn

from renaissance import DataError, Sample, SpecError
from renaissance.builtin.objectives.classification import LabelClassification
from renaissance.testing import check_objective

SINGLE = ["cat", "dog", "cat", "cow", "cat", "dog", "cat", "cat"]
LISTS = [["cat"], [], ["dog", "cat"], ["cow"], ["cat"], ["dog"], ["dog", "cow"], ["cat"]]


def samples(labels: list[Any], **more: Any) -> list[Sample]:
    """Samples of one word each, with a label."""
    return [sample("a photo", {"label": v, **more}, number) for number, v in enumerate(labels)]


def made(labels: list[Any], **options: Any) -> Any:
    return objective(LabelClassification, head=nn.Identity(), training=samples(labels), **options)


def options(**given: Any) -> LabelClassification.Options:
    return LabelClassification.Options(**given)


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        (SINGLE, {}),
        (SINGLE, {"modalities": ("text",)}),
        (SINGLE, {"modalities": ("image",)}),
        (SINGLE, {"class_weights": "balanced", "label_smoothing": 0.1}),
        (SINGLE, {"multi_label": True}),
        (LISTS, {"class_weights": {"cow": 2.0}, "label_smoothing": 0.1}),
        (["+".join(names) for names in LISTS], {"separator": "+", "modalities": ("image",)}),
        ([number % 12 for number in range(24)], {}),
    ],
)
def test_the_contract(labels: list[Any], given: dict[str, Any]) -> None:
    check_objective(LabelClassification, options(**given), samples=samples(labels))


@pytest.mark.parametrize(
    ("labels", "given", "classes", "counts"),
    [
        (SINGLE, {}, ["cat", "cow", "dog"], [5, 1, 2]),
        # As integers, whichever way a format holds them.
        ([10, 9, 2.0, "10", " 2 "], {}, ["2", "9", "10"], [2, 1, 2]),
        ([-1, 1, True], {}, ["-1", "1", "True"], [1, 1, 1]),
        (LISTS, {}, ["cat", "cow", "dog"], [4, 2, 3]),
        (["b|a", "a | a", "", None], {"separator": "|"}, ["a", "b"], [2, 1]),
    ],
)
def test_classes_of_the_training_data(
    labels: list[Any], given: dict[str, Any], classes: list[str], counts: list[int]
) -> None:
    task = made(labels, **given)
    assert list(task.classes) == classes
    batch = collate(task, samples(labels)).objectives["task"]
    targets = batch.tensors["labels"]
    if not task.multi_label:
        targets = F.one_hot(targets, len(classes))
    assert targets.sum(0).tolist() == counts


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-2.0, 3.0, 1.0], [0.0, 0.0, 1.5]])


def loss_of(labels: list[Any], **given: Any) -> float:
    task = made(SINGLE if isinstance(labels[0], str) else LISTS, **given)
    batch = collate(task, samples(labels)).objectives["task"]
    return float(forward(task, batch, LOGITS).loss_sum)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, "balanced", {"cow": 3.0}, (1.0, 2.0, 0.5)])
def test_the_loss_of_one_class(smoothing: float, weights: Any) -> None:
    labels = ["cat", "dog", "cow", "cat"]
    by_name = {"cat": 1.0, "cow": 1.0, "dog": 1.0}
    if weights == "balanced":
        names = sorted(by_name)
        computed = compute_class_weight("balanced", classes=np.array(names), y=SINGLE)
        by_name = dict(zip(names, computed, strict=True))
    elif isinstance(weights, dict):
        by_name |= weights
    elif weights is not None:
        by_name = dict(zip(sorted(by_name), weights, strict=True))
    log_shares = LOGITS.log_softmax(-1).tolist()
    expected = 0.0
    for row, label in zip(log_shares, labels, strict=True):
        for share, (name, weight) in zip(row, by_name.items(), strict=True):
            target = (1 - smoothing) * (name == label) + smoothing / 3
            expected -= weight * target * share
    actual = loss_of(labels, label_smoothing=smoothing, class_weights=weights)
    assert actual == pytest.approx(expected, rel=1e-5)
    if weights is None and not smoothing:
        shares = LOGITS.softmax(-1).numpy()
        referee = log_loss(labels, shares, normalize=False, labels=sorted(by_name))
        assert actual == pytest.approx(referee, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_any_number_of_classes(smoothing: float) -> None:
    labels = [["cat"], [], ["cow", "dog"], ["cat", "dog"]]
    # Of 8 lists, "cat" is in 4, "cow" in 2, "dog" in 3.
    weights = {"cat": 4 / 4, "cow": 6 / 2, "dog": 5 / 3}
    expected = 0.0
    for row, names in zip(LOGITS.tolist(), labels, strict=True):
        for logit, (name, weight) in zip(row, weights.items(), strict=True):
            share = 1 / (1 + np.exp(-logit))
            target = (1 - smoothing) * (name in names) + smoothing / 2
            expected -= weight * target * np.log(share) + (1 - target) * np.log(1 - share)
    actual = loss_of(labels, label_smoothing=smoothing, class_weights="balanced")
    assert actual == pytest.approx(expected, rel=1e-5)


def test_predictions_name_the_sample_the_class_and_the_probabilities() -> None:
    task = made(SINGLE)
    batch = collate(task, samples(["cat", "dog"])).objectives["task"]
    rows = task.predictions(batch, predicting(task, batch, [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    e = float(np.e)
    assert rows[0] == {
        "index": 0,
        "prediction": "cow",
        "probabilities": pytest.approx(
            {"cat": 1 / (2 + e), "cow": e / (2 + e), "dog": 1 / (2 + e)}
        ),
    }
    # A label "id" names the sample.
    named = collate(task, samples(["cat"], id="a17")).objectives["task"]
    assert task.predictions(named, predicting(task, named, [[1.0, 0.0, 0.0]]))[0]["id"] == "a17"


def test_predictions_of_many_classes_list_the_likeliest() -> None:
    labels = [f"class {number}" for number in range(11)]
    task = made(labels)
    batch = collate(task, samples(labels[:1])).objectives["task"]
    logits = [0.1 * number for number in range(11)]
    ((row),) = task.predictions(batch, predicting(task, batch, [logits]))
    # Sorted as texts: "class 10" is the third.
    likeliest = [task.classes[index] for index in (10, 9, 8, 7, 6)]
    assert list(row["probabilities"]) == likeliest
    assert row["prediction"] == likeliest[0]
    assert sum(row["probabilities"].values()) < 1


def test_predictions_of_any_number_of_classes() -> None:
    task = made(LISTS)
    batch = collate(task, samples([[], ["cat"]])).objectives["task"]
    rows = task.predictions(batch, predicting(task, batch, [[-1.0, 0.0, 2.0], [-1.0, -1.0, -1.0]]))
    assert [row["prediction"] for row in rows] == [["cow", "dog"], []]
    assert rows[0]["probabilities"]["dog"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_panel() -> None:
    task = made(LISTS)
    micro_batch = collate(task, samples([[], ["cat", "dog"]]))
    logits = [[-1.0, 0.0, 2.0], [-1.0, -1.0, -1.0]]
    output = predicting(task, micro_batch.objectives["task"], logits)
    assert shown(task, micro_batch, output) == [
        (0, "a photo: cow, dog (truth: none)", False),
        (1, "a photo: none (truth: cat, dog)", False),
    ]
    alone = made(SINGLE, modalities=("image",))
    micro_batch = collate(alone, samples(["cat", "dog"]))
    output = predicting(alone, micro_batch.objectives["task"], logits)
    assert shown(alone, micro_batch, output) == [
        (0, "dog (truth: cat)", False),
        (1, "cat (truth: dog)", False),
    ]
    words = made(SINGLE, modalities=("text",))
    micro_batch = collate(words, samples(["cat", "dog"]))
    assert micro_batch.pixel_values is None
    assert shown(words, micro_batch, output) == []


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "caat",
            "given: 0: label 'label' is 'caat', expected a class of the run: 'cat', 'cow', 'dog'; "
            "did you mean 'cat'?. Correct the row, or leave it out",
        ),
        (["cat", "dog"], "is a list of 2, expected one class of the run: 'cat', 'cow', 'dog'."),
        (None, "given: 0: label 'label' is missing (None). Correct the row, or leave it out"),
    ],
)
def test_a_label_of_another_split(label: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        collate(made(SINGLE), samples([label]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"caw": 1.0}, "class_weights.caw: there is no such class; expected some of cat, cow, dog"),
        ({"cow": 0.0}, "class_weights.cow: got 0.0, expected a number above 0"),
        ((1.0, 2.0), "class_weights: got 2 weights, expected 3, one for each of cat, cow, dog"),
        ((1.0, 2.0, -1.0), "class_weights[2]: got -1.0, expected a number above 0"),
    ],
)
def test_weights_that_cannot_be_used(weights: Any, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        made(SINGLE, class_weights=weights)


def test_balanced_weights_need_samples_of_every_class(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["cat", "cow", "dog", "emu"]')
    with pytest.raises(SpecError, match="the training data has none of emu; give the weights by"):
        objective(
            LabelClassification,
            tmp_path,
            training=samples(SINGLE),
            classes=Path("classes.json"),
            class_weights="balanced",
        )


def test_data_without_text_and_image() -> None:
    bare = [Sample(labels={"label": name}, source="bare") for name in SINGLE]
    with pytest.raises(DataError, match="the training data has neither text nor image"):
        objective(LabelClassification, training=bare)
