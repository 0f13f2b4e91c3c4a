"""Broken datasets: the kit says in words which promise is broken."""

import random
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from support.sound_components import (
    SoundDataset,
    breaking,
    check,
)

from renaissance import (
    Sample,
)
from renaissance.testing import (
    ContractError,
)


def dataset_of(**changes: Callable[[int, Any], Any]) -> type:
    """Return a dataset whose samples have other values."""

    def sample(self: Any, index: int, generator: np.random.Generator) -> Sample:
        sound = SoundDataset.sample(self, index, generator)
        return attrs.evolve(sound, **{n: value(index, self) for n, value in changes.items()})

    return breaking(SoundDataset, sample=sample)


def remember(index: int, dataset: Any) -> dict[str, int]:
    dataset.last = getattr(dataset, "last", 0) + index
    return {"number": dataset.last}


DATASETS = [
    (breaking(SoundDataset, provides={"text"}), "provides is .* expected a frozenset"),
    (breaking(SoundDataset, __len__=lambda s: 0), "it is empty"),
    (
        breaking(SoundDataset, sample=lambda s, index, generator: "noise"),
        "returned str, expected a S",
    ),
    (dataset_of(text=lambda i, d: None), r"sample\(0\): text is NoneType, expected str"),
    (dataset_of(text_pair=lambda i, d: "x"), "text_pair is str, expected NoneType"),
    (dataset_of(images=lambda i, d: ()), "images is .* expected a tuple of PIL images"),
    (dataset_of(image_ids=lambda i, d: ()), "image_ids is .* expected one hashable identifier"),
    (dataset_of(labels=lambda i, d: {}), r"labels are \[\], expected .*\['number'\]"),
    (
        breaking(SoundDataset, label_values=lambda s, name: [0, 1, 2]),
        r"label_values\('number'\) has 3 values, expected one for each of 4 samples",
    ),
    (
        breaking(SoundDataset, label_values=lambda s, name: [0, 1, 2, 5]),
        r"label_values\('number'\) has 5 for sample 3, expected 3, as in its labels",
    ),
    (dataset_of(source=lambda i, d: ""), "source is empty"),
    (
        dataset_of(labels=lambda i, d: {"number": random.random()}),
        "differs when it is read again in the same epoch",
    ),
    (dataset_of(labels=remember), "not on which samples were read before"),
    (dataset_of(image_ids=lambda i, d: (0,)), "the identifier 0 is that of another image"),
    (dataset_of(text=lambda i, d: "noise unknown"), "no word of the vocabulary for unknown"),
]


@pytest.mark.parametrize(("dataset", "text"), DATASETS)
def test_broken_datasets(dataset: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(dataset)


def test_a_dataset_that_lists_its_labels() -> None:
    check(breaking(SoundDataset, label_values=lambda s, name: range(4)))
