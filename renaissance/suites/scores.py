"""The official scores of suites, and what chance would give.

An item's right pairs must score above its wrong ones. Equal scores count as wrong.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from statistics import fmean

import attrs
import numpy as np
from numpy.typing import NDArray

from renaissance.suites.items import ChoiceItem

MEAN = "mean"
Scores = NDArray[np.float32]


@attrs.frozen
class SuiteScores:
    """The scores of a suite.

    Attributes:
        metrics: By name, from 0 to 1.
        chance: The same of a model that scores at random.
        num_items: Items by metric.
    """

    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    num_items: Mapping[str, int]


def item_scores(scores: Scores, image_of: Sequence[int | None]) -> dict[str, bool]:
    """Return which scores an item gets.

    "text": each image scores its own text above all others. "image": each text scores its own image
    above all others. "group": both. An item of one image only has the first, as "accuracy".

    Args:
        scores: Of each image with each text, (images, texts).
        image_of: For each text, the index of its image; None for a text that fits no image.
    """
    own = [(image, text) for text, image in enumerate(image_of) if image is not None]
    text_is_right = all(_is_above(scores[image], text) for image, text in own)
    if len(scores) == 1:
        return {"accuracy": text_is_right}
    image_is_right = all(_is_above(scores[:, text], image) for image, text in own)
    return {
        "text": text_is_right,
        "image": image_is_right,
        "group": text_is_right and image_is_right,
    }


def _is_above(scores: Scores, index: int) -> bool:
    """Return whether one of the scores is above all others."""
    return bool((scores[index] > np.delete(scores, index)).all())


@cache
def chances(num_images: int, image_of: tuple[int | None, ...]) -> Mapping[str, float]:
    """Return the mean of each of an item's scores over all orders of its pairs."""
    shape = (num_images, len(image_of))
    orders = itertools.permutations(range(num_images * len(image_of)))
    results = [
        item_scores(np.array(order, np.float32).reshape(shape), image_of) for order in orders
    ]
    return {name: fmean(result[name] for result in results) for name in results[0]}


def suite_scores(
    items: Sequence[ChoiceItem], scores: Sequence[Scores], min_of_kind: Mapping[str, int]
) -> SuiteScores:
    """Return the scores of a suite: by group, by kind where that is official, and their means.

    Args:
        items: The items.
        scores: Of each item, (images, texts).
        min_of_kind: See `Suite`.
    """
    by_metric: dict[str, list[tuple[ChoiceItem, bool, float]]] = {}
    for item, its_scores in zip(items, scores, strict=True):
        expected = chances(len(item.images), item.image_of)
        for name, is_right in item_scores(its_scores, item.image_of).items():
            by_metric.setdefault(f"{item.group}/{name}", []).append(
                (item, is_right, expected[name])
            )
    metrics, chance, num_items = {}, {}, {}
    for name, rows in by_metric.items():
        metrics[name] = fmean(is_right for _, is_right, _ in rows)
        chance[name] = fmean(expected for *_, expected in rows)
        num_items[name] = len(rows)
        for macro, value in _macro(name, rows, min_of_kind):
            metrics[macro], chance[macro], num_items[macro] = value, chance[name], len(rows)
    accuracies = [name for name in by_metric if name.endswith("/accuracy")]
    if len(accuracies) > 1:
        metrics[MEAN] = fmean(metrics[name] for name in accuracies)
        chance[MEAN] = fmean(chance[name] for name in accuracies)
        num_items[MEAN] = len(items)
    return SuiteScores(metrics, chance, num_items)


def _macro(
    name: str, rows: Sequence[tuple[ChoiceItem, bool, float]], min_of_kind: Mapping[str, int]
) -> Iterator[tuple[str, float]]:
    """Yield the mean over kinds with enough items, of a group where that is official."""
    minimum = min_of_kind.get(rows[0][0].group)
    if minimum is None:
        return
    by_kind: dict[str, list[bool]] = {}
    for item, is_right, _ in rows:
        by_kind.setdefault(item.kind, []).append(is_right)
    means = [fmean(kind) for kind in by_kind.values() if len(kind) >= minimum]
    if means:
        yield f"{name.replace('/accuracy', '/macro_accuracy')}", fmean(means)
