"""The labels of a split: their classes, counted, and their numbers; errors name the row."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from renaissance.contracts.dataset import Dataset
from renaissance.contracts.labels import class_names, in_order, is_list, is_missing, number
from renaissance.data.class_file import read_class_file
from renaissance.data.concatenation import Concatenation
from renaissance.errors import DataError, did_you_mean, quoted
from renaissance.randomness import keyed_generator

# How many names a message lists.
MAX_NAMED = 5


@attrs.frozen
class Question:
    """What an objective asks about a label; see `TrainingData.classes`.

    Attributes:
        objective: The objective's name.
        label: The label.
        file: A file of the classes.
        separator: What separates the classes of a text.
        multi_label: Whether a sample may have any number of classes; None to see from the data.
        most_frequent: How many classes to keep.
    """

    objective: str
    label: str
    file: Path | None = None
    separator: str | None = None
    multi_label: bool | None = None
    most_frequent: int | None = None


@attrs.frozen
class Split:
    """The datasets of a split that one objective reads, each with its name for messages."""

    datasets: tuple[tuple[str, Dataset], ...]

    @classmethod
    def of(cls, datasets: Concatenation, objective: str) -> "Split":
        """Return the datasets of a concatenation that are for an objective."""
        every = zip(datasets.names, datasets.datasets, datasets.routes, strict=True)
        return cls(tuple((n, d) for n, d, route in every if route is None or objective in route))

    def __len__(self) -> int:
        return sum(len(dataset) for _, dataset in self.datasets)

    @property
    def names(self) -> str:
        """The names of the datasets."""
        return ", ".join(name for name, _ in self.datasets)

    def require(self, label: str, objective: str) -> None:
        """Check that all datasets have a label.

        Raises:
            DataError: Naming the dataset and the nearest name.
        """
        for name, dataset in self.datasets:
            if label not in dataset.provides:
                raise DataError(
                    f"objective '{objective}' needs label '{label}', which {name} does not "
                    f"provide (it provides {', '.join(sorted(dataset.provides))})"
                    f"{did_you_mean(label, dataset.provides)}"
                )

    def lists(self, label: str) -> bool:
        """Return whether every dataset can list the values of a label."""
        return all(
            label in dataset.provides and type(dataset).label_values is not Dataset.label_values
            for _, dataset in self.datasets
        )

    def values(self, label: str) -> "Iterator[Value]":
        """Yield the value of a label in every sample."""
        for name, dataset in self.datasets:
            for index, value in enumerate(dataset.label_values(label)):
                yield Value(name, dataset, index, label, value)


@attrs.frozen
class Value:
    """The value of a label in one sample."""

    name: str
    dataset: Dataset
    index: int
    label: str
    value: object

    def fault(self, message: str) -> DataError:
        """Return an error that names file, row and label."""
        try:
            generator = keyed_generator(0, 0, self.index, "dataset")
            where = self.dataset.sample(self.index, generator).source
        # The sample may have other faults.
        except DataError:
            where = f"{self.name}: sample {self.index}"
        return DataError(
            f"{where}: label '{self.label}' {message}. Correct the row, or leave it out"
        )

    def classes(self, separator: str | None, multi_label: bool) -> tuple[str, ...]:
        """Return the classes that it names."""
        if is_list(self.value) and not multi_label:
            raise self.fault(
                f"is {quoted(self.value)}, expected one class, as in other samples (for any "
                "number of classes, set multi_label = true)"
            )
        try:
            return class_names(self.value, separator)
        except ValueError as error:
            raise self.fault(str(error)) from error

    def number(self) -> float:
        """Return the number that it is."""
        try:
            return number(self.value)
        except ValueError as error:
            raise self.fault(str(error)) from error


def find_classes(split: Split, question: Question) -> dict[str, Any]:
    """Find the classes of a label, as they are kept in the run folder.

    Raises:
        DataError: If a label is missing or unknown, or all samples have the same class.
    """
    split.require(question.label, question.objective)
    names: Sequence[str] | None = None
    if question.file is not None:
        names = read_class_file(question.file)
    # A file is enough where the data cannot list its labels.
    can_count = names is None or split.lists(question.label)
    multi_label = question.multi_label
    if multi_label is None:
        multi_label = question.separator is not None or (can_count and _has_lists(split, question))
    counts: Counter[str] = Counter()
    if can_count:
        counts = count_classes(
            split, question.label, question.separator, multi_label, names, str(question.file)
        )
        _require_two(split, question, counts, multi_label)
    if names is None:
        names = _ordered(counts, question.most_frequent)
    return {
        "separator": question.separator,
        "multi_label": multi_label,
        "open": question.most_frequent is not None,
        "num_samples": len(split) if can_count else 0,
        "classes": {name: counts[name] for name in names},
    }


def find_distribution(split: Split, question: Question) -> dict[str, Any]:
    """Find the mean and the standard deviation of a label that is a number.

    Raises:
        DataError: If a value is missing or is not a finite number, or all are equal.
    """
    split.require(question.label, question.objective)
    values = [value.number() for value in split.values(question.label)]
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    if min(values) == max(values):
        raise DataError(
            f"objective '{question.objective}': label '{question.label}' is {values[0]:g} in all "
            f"{len(values):,} samples of {split.names}; expected different numbers, or nothing "
            "can be learned. Choose another label"
        )
    return {"mean": mean, "std": std}


def count_classes(
    split: Split,
    label: str,
    separator: str | None,
    multi_label: bool,
    known: Sequence[str] | None = None,
    known_from: str = "the training data",
) -> Counter[str]:
    """Count the samples of each class.

    Raises:
        DataError: If a label is missing, or is not one of the known classes, if any are given.
    """
    counts: Counter[str] = Counter()
    allowed = None if known is None else frozenset(known)
    for value in split.values(label):
        names = value.classes(separator, multi_label)
        for name in names:
            if allowed is not None and name not in allowed:
                raise value.fault(
                    f"is {quoted(name)}, expected a class of {known_from}: "
                    f"{few(known or ())}{did_you_mean(name, known or ())}"
                )
        counts.update(names)
    return counts


def few(names: Sequence[str]) -> str:
    """Return some names for a message, and how many more there are."""
    more = [f"{len(names) - MAX_NAMED:,} more"] if len(names) > MAX_NAMED else []
    return ", ".join([*map(quoted, names[:MAX_NAMED]), *more])


def _ordered(counts: Mapping[str, int], most_frequent: int | None) -> Sequence[str]:
    if most_frequent is None:
        return in_order(counts)
    return sorted(counts, key=lambda name: (-counts[name], name))[:most_frequent]


def _has_lists(split: Split, question: Question) -> bool:
    for value in split.values(question.label):
        if is_list(value.value) or not is_missing(value.value):
            return is_list(value.value)
    return False


def _require_two(split: Split, question: Question, counts: Counter[str], multi_label: bool) -> None:
    if len(counts) > 1 or (multi_label and 0 < counts.total() < len(split)):
        return
    what = f"is {quoted(next(iter(counts)))}" if counts else "names no class"
    raise DataError(
        f"objective '{question.objective}': label '{question.label}' {what} in all {len(split):,} "
        f"samples of {split.names}; expected at least 2 classes, or nothing can be learned. "
        "Choose another label, or add samples of other classes"
    )
