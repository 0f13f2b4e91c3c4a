"""What an objective may know about the run's training data."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import attrs

from renaissance.contracts.tokens import Modality
from renaissance.errors import DataError

T = TypeVar("T")


@attrs.frozen
class Classes:
    """The classes of a label.

    Attributes:
        names: Their names, in the order of the logits.
        counts: Number of training samples of each; all 0 if the dataset cannot list its labels.
        num_samples: Number of training samples that were counted.
        multi_label: True if a sample may have any number of classes.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    num_samples: int
    multi_label: bool


@attrs.frozen
class Distribution:
    """The mean and the standard deviation of a label that is a number."""

    mean: float
    std: float


class TrainingData(Protocol):
    """The run's training data, as far as one objective may know it.

    The answers are kept in the run folder (`classes.json`), so they are the same when the run is
    evaluated or resumed, even where the data is absent.
    """

    def modalities(self) -> tuple[Modality, ...]:
        """Return which of "text" and "image" all of the objective's training datasets have."""
        ...

    def classes(
        self,
        label: str,
        *,
        file: Path | None = None,
        separator: str | None = None,
        multi_label: bool | None = None,
        most_frequent: int | None = None,
    ) -> Classes:
        """Return the classes of a label: sorted, or in the order of the file.

        Args:
            label: Name of the label.
            file: A file of the classes: one per line, or a JSON list. Without one, the classes are
                all values in the training data.
            separator: What separates the classes of a text; see `class_names`.
            multi_label: Whether a sample may have any number of classes. If None, it may where the
                labels are lists or there is a separator.
            most_frequent: Keep only this many, the most frequent first. Other values are then
                allowed in all splits; otherwise they are an error.

        Raises:
            DataError: If the datasets lack the label, or their labels make no classes.
        """
        ...

    def names(self, file: Path) -> tuple[str, ...]:
        """Return the classes that a file names: one per line, or a JSON list.

        Unlike `classes`, this does not look at the data.

        Raises:
            DataError: If it does not name two distinct classes or more.
        """
        ...

    def distribution(self, label: str) -> Distribution:
        """Return the mean and the standard deviation of a label that is a number.

        Raises:
            DataError: If the datasets lack the label, or a value is not a finite number, or all
                are equal.
        """
        ...

    def kept(self, name: str, find: Callable[[], T]) -> T:
        """Return what `find` finds when the run starts, such as the content of a file.

        Args:
            name: A name for it.
            find: Finds it; the value must be one that JSON gives back as it is. A resumed run must
                find the same.
        """
        ...


class NoTrainingData:
    """The `TrainingData` of an objective that is made without a run: there is none to ask for."""

    def modalities(self) -> tuple[Modality, ...]:
        """Return both."""
        return ("text", "image")

    def classes(self, label: str, **question: object) -> Classes:
        """Raise an error."""
        raise _no_data(label)

    def names(self, file: Path) -> tuple[str, ...]:
        """Raise an error."""
        raise _no_data(str(file))

    def distribution(self, label: str) -> Distribution:
        """Raise an error."""
        raise _no_data(label)

    def kept(self, name: str, find: Callable[[], T]) -> T:
        """Return what is found now."""
        return find()


def _no_data(label: str) -> DataError:
    return DataError(
        f"label '{label}': the objective asks for its values, but was made without training data; "
        "give its ObjectiveContext data"
    )
