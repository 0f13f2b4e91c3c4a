"""The sentences of a GLUE task, from the official files."""

from pathlib import Path
from typing import Literal

import attrs
import numpy as np

from renaissance import DataError, Dataset, DatasetContext, Sample, option, quoted
from renaissance_glue.tasks import COLA_COLUMNS, TASKS, Task, TaskName
from renaissance_glue.tsv import AGAIN, TsvFile

Split = Literal["train", "validate", "test"]
FILES: dict[Split, str] = {"train": "train", "validate": "dev", "test": "test"}
# The MRPC corpus in its authors' split, for users who do not have GLUE's version of it.
MSR_FILES: dict[Split, str] = {
    "train": "msr_paraphrase_train.txt",
    "validate": "msr_paraphrase_test.txt",
    "test": "msr_paraphrase_test.txt",
}
# Columns of test files with the index under which a prediction is submitted.
INDEX_COLUMNS = ("index", "id")


class Glue(Dataset):
    """Sentences or sentence pairs: one sample per line of `<TASK>/{train,dev,test}.tsv`.

    Provides the label, the class's index, under the name of the task, so that an objective for
    another task rejects the data. Labels of test files are ignored. `index` is the index that a
    test file gives for the line, or else the line's position, from 0.

    Args:
        options: The dataset's options.
        context: What the dataset may need to know about the run.

    Raises:
        DataError: If the file is missing or lacks one of the task's columns.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `glue`."""

        task: TaskName = option(help="The task.")
        split: Split | None = option(
            None, help="Split; by default train for training and validate for validation."
        )
        matched: bool = option(
            True,
            help="For mnli's validate and test: the genres of the training data (true), or other "
            "genres (false).",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        self._arguments = (options, context)
        self._name = options.task
        self._task = TASKS[options.task]
        split: Split = options.split or ("train" if context.training else "validate")
        self._is_test = split == "test"
        path = _path(context.root, options, self._task, split)
        has_no_header = options.task == "cola" and not self._is_test
        self._file = TsvFile(path, COLA_COLUMNS if has_no_header else None)
        needed = [
            self._task.text,
            self._task.text_pair,
            None if self._is_test else self._task.label,
        ]
        _check_columns(self._file, [column for column in needed if column is not None])
        self.provides = frozenset(
            {"text", "index"}
            | ({"text_pair"} if self._task.text_pair else set())
            | (set() if self._is_test else {options.task})
        )

    def __len__(self) -> int:
        return len(self._file)

    def __reduce__(self) -> tuple[type["Glue"], tuple[object, ...]]:
        # A loader process that does not inherit memory opens the file again.
        return type(self), self._arguments

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one line.

        Raises:
            DataError: If a column is missing, a sentence is empty, or the label is unknown.
        """
        source = self._file.source(index)
        row = self._file.row(index)
        labels = {"index": self._index(index, row, source)}
        if not self._is_test:
            label = row[self._task.label]
            _check_one_of(source, self._task.label, label, self._task.classes)
            labels[self._name] = self._task.classes.index(label)
        pair = self._task.text_pair
        return Sample(
            text=_sentence(source, self._task.text, row),
            text_pair=None if pair is None else _sentence(source, pair, row),
            labels=labels,
            source=source,
        )

    def _index(self, index: int, row: dict[str, str], source: str) -> int:
        for column in INDEX_COLUMNS if self._is_test else ():
            if column in row:
                if not row[column].isdecimal():
                    raise DataError(
                        f"{source}: {column} is {quoted(row[column])}, expected a number. {AGAIN}"
                    )
                return int(row[column])
        return index


def _path(root: Path, options: Glue.Options, task: Task, split: Split) -> Path:
    folder = root / task.folder
    matching = "matched" if options.matched else "mismatched"
    genres = f"_{matching}" if options.task == "mnli" and split != "train" else ""
    path = folder / f"{FILES[split]}{genres}.tsv"
    other = folder / MSR_FILES[split]
    return other if options.task == "mrpc" and other.exists() and not path.exists() else path


def _check_columns(file: TsvFile, needed: list[str]) -> None:
    missing = [column for column in needed if column not in file.columns]
    if missing:
        raise DataError(
            f"{file.path}: no column {', '.join(map(repr, missing))} in its first line, which has "
            f"{', '.join(map(repr, file.columns))}; expected the file of GLUE's own download"
        )


def _check_one_of(source: str, column: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DataError(
            f"{source}: {column} is {quoted(value)}, expected one of {', '.join(known)}. {AGAIN}"
        )


def _sentence(source: str, column: str, row: dict[str, str]) -> str:
    if not row[column].strip():
        raise DataError(
            f"{source}: {column} is empty ({quoted(row[column])}), expected text. {AGAIN}"
        )
    return row[column]
