"""The official scores of suites, written out on items made by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from renaissance.suites.items import ChoiceItem, ItemImage
from renaissance.suites.scores import chances, item_scores, suite_scores

IMAGES = (ItemImage(Path("a.png")), ItemImage(Path("b.png")))


def _winoground(s: np.ndarray) -> dict[str, bool]:
    """The definition of Thrush et al. (2022), section 3.3: f, g, h of captions C and images I."""
    c0_i0, c1_i0, c0_i1, c1_i1 = s[0, 0], s[0, 1], s[1, 0], s[1, 1]
    text = c0_i0 > c1_i0 and c1_i1 > c0_i1
    image = c0_i0 > c0_i1 and c1_i1 > c1_i0
    return {"text": text, "image": image, "group": text and image}


def test_winoground_is_its_definition() -> None:
    orders = [*itertools.permutations(range(4)), *itertools.product((0, 1), repeat=4)]
    for order in orders:
        scores = np.array(order, np.float32).reshape(2, 2)
        assert item_scores(scores, (0, 1)) == _winoground(scores), order


def test_equal_scores_are_wrong() -> None:
    assert item_scores(np.zeros((1, 2), np.float32), (0, None)) == {"accuracy": False}
    assert item_scores(np.float32([[2, 1]]), (0, None)) == {"accuracy": True}
    # The order of the texts does not matter.
    assert item_scores(np.float32([[2, 1]]), (None, 0)) == {"accuracy": False}


def test_chance_is_that_of_random_scores() -> None:
    assert chances(2, (0, 1)) == pytest.approx({"text": 1 / 4, "image": 1 / 4, "group": 1 / 6})
    assert chances(1, (0, None)) == {"accuracy": 1 / 2}
    # As in a suite of one caption and four others.
    assert chances(1, (0, None, None, None, None)) == pytest.approx({"accuracy": 1 / 5})
    generator = np.random.default_rng(0)
    drawn = [_winoground(generator.random((2, 2))) for _ in range(20_000)]
    for name, chance in chances(2, (0, 1)).items():
        assert np.mean([d[name] for d in drawn]) == pytest.approx(chance, abs=0.01)


def _items(groups: str, kinds: str) -> list[ChoiceItem]:
    return [
        ChoiceItem(f"item {i}", group, IMAGES[:1], ("a", "b"), (0, None), kind)
        for i, (group, kind) in enumerate(zip(groups, kinds, strict=True))
    ]


def test_groups_and_their_mean() -> None:
    items = _items("xxxxy", "-----")
    right, wrong = np.float32([[1, 0]]), np.float32([[0, 1]])
    result = suite_scores(items, [right, right, right, wrong, wrong], {})
    assert result.metrics == {"x/accuracy": 0.75, "y/accuracy": 0.0, "mean": 0.375}
    assert result.chance == {"x/accuracy": 0.5, "y/accuracy": 0.5, "mean": 0.5}
    assert result.num_items == {"x/accuracy": 4, "y/accuracy": 1, "mean": 5}


def test_the_macro_accuracy_is_the_mean_over_kinds_with_enough_items() -> None:
    # Of kinds a (2 of 2 right), b (1 of 3), c (1 of 1, too few).
    items = _items("xxxxxx", "aabbbc")
    right, wrong = np.float32([[1, 0]]), np.float32([[0, 1]])
    scores = [right, right, right, wrong, wrong, right]
    result = suite_scores(items, scores, {"x": 2})
    assert result.metrics["x/accuracy"] == pytest.approx(4 / 6)
    assert result.metrics["x/macro_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert suite_scores(items, scores, {"x": 1}).metrics["x/macro_accuracy"] == pytest.approx(
        (1 + 1 / 3 + 1) / 3
    )
    # With too few of every kind, there is none.
    assert "x/macro_accuracy" not in suite_scores(items, scores, {"x": 9}).metrics
