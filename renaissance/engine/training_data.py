"""What objectives know about the training data: found when a run starts, kept in its folder.

A trained head is useless without the classes of its logits, and an evaluation must not take them
from its own split. So every answer is recorded, and `classes.json` has them all:

    {"classification": {"modalities": ["text", "image"], "labels": {"label": {...}}}}
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from renaissance.contracts.tokens import Modality
from renaissance.contracts.training_data import Classes, Distribution
from renaissance.data.class_file import read_class_file
from renaissance.data.concatenation import Concatenation
from renaissance.engine.labels import (
    Question,
    Split,
    count_classes,
    few,
    find_classes,
    find_distribution,
)
from renaissance.errors import CheckpointError, shortened

MODALITIES: tuple[Modality, ...] = ("text", "image")
CLASSES_KEYS = {"separator", "multi_label", "open", "num_samples", "classes"}
DISTRIBUTION_KEYS = {"mean", "std"}

T = TypeVar("T")
# What one objective knows; JSON can hold it.
Record = dict[str, Any]


class ObjectiveData:
    """The `TrainingData` of one objective; that protocol describes arguments and results.

    Args:
        objective: The objective's name.
        split: Returns the training datasets that it reads.
        stored: What is kept in the run folder.
        is_resumed: Whether the data must give what is stored; otherwise it is not read again.

    Attributes:
        record: All answers so far.
    """

    def __init__(
        self, objective: str, split: Callable[[], Split], stored: Record, is_resumed: bool
    ) -> None:
        self._objective = objective
        self._split = split
        self._stored = stored
        self._is_resumed = is_resumed
        self.record: Record = {}

    def modalities(self) -> tuple[Modality, ...]:
        """Return what all datasets have of text and image."""

        def find() -> list[Modality]:
            provided = [dataset.provides for _, dataset in self._split().datasets]
            return [m for m in MODALITIES if all(m in provides for provides in provided)]

        return tuple(self._answer(self.record, self._stored, "modalities", find))

    def classes(
        self,
        label: str,
        *,
        file: Path | None = None,
        separator: str | None = None,
        multi_label: bool | None = None,
        most_frequent: int | None = None,
    ) -> Classes:
        """Return the classes of a label."""
        asked = Question(self._objective, label, file, separator, multi_label, most_frequent)
        found = self._label(label, lambda: find_classes(self._split(), asked))
        counts = found["classes"]
        return Classes(
            tuple(counts), tuple(counts.values()), found["num_samples"], found["multi_label"]
        )

    def names(self, file: Path) -> tuple[str, ...]:
        """Return the classes that a file names."""
        found = self._answer(
            self.record, self._stored, "names", lambda: list(read_class_file(file))
        )
        return tuple(found)

    def distribution(self, label: str) -> Distribution:
        """Return the mean and the standard deviation of a label."""
        asked = Question(self._objective, label)
        found = self._label(label, lambda: find_distribution(self._split(), asked))
        return Distribution(found["mean"], found["std"])

    def kept(self, name: str, find: Callable[[], T]) -> T:
        """Return what is found when the run starts."""
        records = self.record.setdefault("kept", {})
        return self._answer(records, self._stored.get("kept", {}), name, find)

    def check(self, split: Split) -> list[str]:
        """Check the labels of another split; return warnings.

        Raises:
            DataError: If a label is missing, or names a class that the training data lacks.
        """
        warnings = []
        for label, record in self.record.get("labels", {}).items():
            if not split.lists(label):
                continue  # Without labels it can be predicted; others are checked when read.
            if "classes" not in record:
                for value in split.values(label):
                    value.number()
            elif not record["open"]:
                names = list(record["classes"])
                counts = count_classes(
                    split, label, record["separator"], record["multi_label"], names
                )
                absent = [name for name in names if not counts[name]]
                if absent:
                    warnings.append(
                        f"{split.names} has no sample of {few(absent)}, of the {len(names)} "
                        f"classes of objective '{self._objective}'"
                    )
        return warnings

    def warnings(self) -> list[str]:
        """Return which classes have too few samples, in words."""
        warnings = []
        for label, record in self.record.get("labels", {}).items():
            counts = record.get("classes", {})
            if record.get("open") or not any(counts.values()):
                continue
            for count, words in ((1, "only one training sample"), (0, "no training sample")):
                rare = [name for name in counts if counts[name] == count]
                if rare:
                    has = "has" if len(rare) == 1 else "have"
                    warnings.append(
                        f"objective '{self._objective}': label '{label}': of {len(counts):,} "
                        f"classes, {few(rare)} {has} {words}; add samples, or leave them out"
                    )
        return warnings

    def _label(self, label: str, find: Callable[[], Record]) -> Record:
        records = self.record.setdefault("labels", {})
        return self._answer(records, self._stored.get("labels", {}), label, find)

    def _answer(
        self, records: Record, stored: Mapping[str, Any], key: str, find: Callable[[], T]
    ) -> T:
        """Return the stored answer if there is one, or else find it; record it."""
        if key not in records:
            records[key] = stored[key] if key in stored else find()
            if key in stored and self._is_resumed:
                difference = _difference(key, stored[key], find())
                if difference:
                    raise CheckpointError(
                        f"objective '{self._objective}': since the run began, {difference}; the "
                        "outputs of its head would mean something else. Restore the data, or "
                        "choose another run.name"
                    )
        answer: T = records[key]
        return answer


class TrainingAnswers:
    """What all objectives of a run know about its training data.

    Args:
        datasets: Opens the training datasets; called only if something is asked that is not stored.
        stored: What is kept in the run folder, by objective.
        is_resumed: Whether the data must give what is stored.
    """

    def __init__(
        self,
        datasets: Callable[[], Concatenation],
        stored: Mapping[str, Record] | None = None,
        is_resumed: bool = False,
    ) -> None:
        self._datasets = datasets
        self._stored = stored or {}
        self._is_resumed = is_resumed
        self._objectives: dict[str, ObjectiveData] = {}

    def of(self, objective: str) -> ObjectiveData:
        """Return what one objective may know."""
        return self._objectives.setdefault(
            objective,
            ObjectiveData(
                objective,
                lambda: Split.of(self._datasets(), objective),
                self._stored.get(objective, {}),
                self._is_resumed,
            ),
        )

    def records(self) -> dict[str, Record]:
        """Return all answers by objective, as they are kept in the run folder."""
        return {name: data.record for name, data in self._objectives.items() if data.record}

    def check(self, datasets: Concatenation) -> list[str]:
        """Check the labels of another split; return warnings.

        Raises:
            DataError: If a label is missing, or names a class that the training data lacks.
        """
        return [
            warning
            for name, data in self._objectives.items()
            for warning in data.check(Split.of(datasets, name))
        ]

    def warnings(self) -> list[str]:
        """Return which classes have too few samples, in words."""
        return [warning for data in self._objectives.values() for warning in data.warnings()]


def read_records(path: Path) -> dict[str, Record]:
    """Return what is kept in a run folder; empty if nothing is.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        records: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))
        for record in records.values():
            for label in record.get("labels", {}).values():
                if label.keys() not in (CLASSES_KEYS, DISTRIBUTION_KEYS):
                    raise ValueError(f"a label has {', '.join(label)}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); expected the classes of the run, as training wrote them. "
            "Restore the file from a copy of the run"
        ) from error
    return records


def _difference(key: str, stored: Any, found: Any) -> str:
    """Return in words how the data changed what a head's outputs mean; empty if it did not."""
    if not isinstance(stored, dict):
        old, new = (shortened(str(value)) for value in (stored, found))
        return "" if stored == found else f"its {key} changed from {old} to {new}"
    if "classes" not in stored or "classes" not in found:
        return "" if stored.keys() == found.keys() else "the kind of label changed"
    old, new = stored["classes"], found["classes"]
    changes = {
        "lost": [name for name in old if name not in new],
        "got": [name for name in new if name not in old],
    }
    if any(changes.values()):
        return "the classes " + " and ".join(f"{w} {few(n)}" for w, n in changes.items() if n)
    if list(old) != list(new):
        return f"the order of the classes changed from {few(list(old))} to {few(list(new))}"
    return "" if stored["multi_label"] == found["multi_label"] else "multi_label changed"
