"""Check a file of predictions against the questions that it shall answer."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from renaissance.data.arrow import ArrowTable, CaptionIndex
from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.json_lines import json_lines
from renaissance.data.prepare.sources.nlvr2 import ANSWERS
from renaissance.data.prepare.sources.snli_ve import LABELS
from renaissance.errors import DataError

NUM_SHOWN = 10
MAX_LENGTH = 60
HEADER = ["identifier", "prediction"]

Identifier = int | str


class Task(StrEnum):
    """Tasks whose predictions are handed in."""

    VQA = "vqa"
    NLVR2 = "nlvr2"
    SNLI_VE = "snli-ve"


@attrs.frozen
class Entry:
    """One prediction of a file.

    Attributes:
        place: Where in the file it is, for messages.
        identifier: The question that it answers; None if that cannot be told.
        fault: What is wrong with its form, or None.
    """

    place: str
    identifier: Identifier | None = None
    fault: str | None = None


@attrs.frozen
class Submission:
    """What a file of predictions was found to hold.

    Attributes:
        num_questions: Questions to be answered.
        num_predictions: Entries of the file.
        malformed: Places of entries of another form, each with what is wrong.
        unknown: Entries that answer no question of the list.
        twice: Entries that answer a question again.
        missing: Questions without an answer.
    """

    num_questions: int
    num_predictions: int
    malformed: list[str]
    unknown: list[str]
    twice: list[str]
    missing: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Faults of each sort."""
        return {
            "of another form": len(self.malformed),
            "unknown": len(self.unknown),
            "twice": len(self.twice),
            "missing": len(self.missing),
        }

    def raise_faults(self, path: Path) -> None:
        """Raise the first faults of each sort, if there are any.

        Raises:
            DataError: If there are.
        """
        number = sum(self.counts.values())
        if number == 0:
            return
        lines = []
        for faults in (self.malformed, self.unknown, self.twice, self.missing):
            lines += faults[:NUM_SHOWN]
            if len(faults) > NUM_SHOWN:
                lines.append(f"and {len(faults) - NUM_SHOWN:,} more like the last")
        raise DataError(
            "\n".join(
                [
                    *(f"{path}: {line}" for line in lines),
                    f"{number:,} faults; name the questions that the file was predicted for, or "
                    "write it again with 'renaissance evaluate --predictions' on that split",
                ]
            )
        )


def check_submission(path: Path, task: Task, questions: Path) -> Submission:
    """Check that a file answers every question once, in the task's form.

    Args:
        path: The predictions: for vqa a JSON list of {question_id, answer}; for nlvr2 lines of
            identifier,True or identifier,False; for snli-ve the same with classes, and a header.
        task: The task.
        questions: The official questions of vqa or nlvr2; for snli-ve, whose questions bear no
            number of their own, the Arrow file of the split.

    Raises:
        DataError: If a file cannot be read, or is as a whole of another form.
    """
    read_questions, read_predictions = FORMATS[task]
    answered = dict.fromkeys(read_questions(questions), False)
    if not answered:
        raise DataError(f"{questions}: no questions; expected those of {task}. Name their file")
    entries = list(read_predictions(path))
    found = Submission(len(answered), len(entries), [], [], [], [])
    for entry in entries:
        if entry.fault is not None:
            found.malformed.append(f"{entry.place}: {entry.fault}")
        if entry.identifier is None:
            continue
        if entry.identifier not in answered:
            found.unknown.append(f"{entry.place}: {entry.identifier!r} is no question")
        elif answered[entry.identifier]:
            found.twice.append(f"{entry.place}: {entry.identifier!r} is answered a second time")
        else:
            answered[entry.identifier] = True
    found.missing.extend(f"no answer to {i!r}" for i, is_done in answered.items() if not is_done)
    return found


def _vqa_questions(path: Path) -> Iterator[Identifier]:
    for number, question in enumerate(json_elements(path, "questions")):
        question_id = question.get("question_id") if isinstance(question, dict) else None
        if type(question_id) is not int:
            raise DataError(
                f"{path}: questions[{number}]: question_id is {question_id!r}; expected the "
                "official questions of VQA v2, each with a whole number. Download the file again"
            )
        yield question_id


def _nlvr2_questions(path: Path) -> Iterator[Identifier]:
    try:
        for place, question in json_lines(path):
            if not isinstance(question.get("identifier"), str):
                raise DataError(
                    f"{place}: identifier is {question.get('identifier')!r}; expected the official "
                    "sentences of NLVR2, each with one such as test1-0-1-0. Download the file again"
                )
            yield question["identifier"]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected the official sentences of NLVR2. Name "
            "their file"
        ) from error


def _snli_ve_questions(path: Path) -> Iterator[Identifier]:
    index = CaptionIndex(ArrowTable([path], ["sentences"]).column("sentences"))
    for number in range(len(index)):
        row, position = index.locate(number)
        # As the dataset names them.
        yield f"{row}:{position}"


def _vqa_predictions(path: Path) -> Iterator[Entry]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise _another_form(path, f"not valid JSON ({error})", Task.VQA) from error
    if not isinstance(content, list):
        raise _another_form(path, f"a JSON {type(content).__name__}", Task.VQA)
    for number, entry in enumerate(content):
        yield _vqa_entry(f"entry {number}", entry)


def _vqa_entry(place: str, entry: Any) -> Entry:
    if not isinstance(entry, dict) or not entry.keys() >= {"question_id", "answer"}:
        return Entry(place, None, f"{_short(entry)}; expected an object of question_id and answer")
    question_id, answer = entry["question_id"], entry["answer"]
    if type(question_id) is not int:
        return Entry(place, None, f"question_id is {_short(question_id)}; expected a whole number")
    if not isinstance(answer, str) or not answer.strip():
        return Entry(place, question_id, f"answer is {_short(answer)}; expected a text")
    return Entry(place, question_id)


def _nlvr2_predictions(path: Path) -> Iterator[Entry]:
    for line, fields in _csv_rows(path, Task.NLVR2):
        yield _csv_entry(line, fields, ANSWERS)


def _snli_ve_predictions(path: Path) -> Iterator[Entry]:
    rows = _csv_rows(path, Task.SNLI_VE)
    _, header = next(rows, (1, []))
    if header != HEADER:
        raise _another_form(path, f"the first line is {','.join(header)!r}", Task.SNLI_VE)
    for line, fields in rows:
        yield _csv_entry(line, fields, tuple(LABELS))


def _csv_entry(line: int, fields: list[str], classes: tuple[str, ...]) -> Entry:
    place = f"line {line}"
    if len(fields) != len(HEADER):
        return Entry(place, None, f"{_short(','.join(fields))}; expected {','.join(HEADER)}")
    identifier, prediction = fields
    if prediction not in classes:
        fault = f"prediction is {_short(prediction)}; expected {', '.join(classes)}"
        return Entry(place, identifier, fault)
    return Entry(place, identifier)


def _csv_rows(path: Path, task: Task) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line, empty ones too."""
    reader = csv.reader(io.StringIO(_text(path)), strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise _another_form(path, f"line {reader.line_num}: {error}", task) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected the file that 'renaissance evaluate "
            "--predictions' wrote"
        ) from error


def _another_form(path: Path, found: str, task: Task) -> DataError:
    expected = {
        Task.VQA: "a JSON list of {question_id, answer}",
        Task.NLVR2: "lines of identifier,True or identifier,False, without a header",
        Task.SNLI_VE: f"lines of identifier,prediction under the header {','.join(HEADER)}",
    }[task]
    return DataError(
        f"{path}: {found}; expected {expected}. Choose the task that it was predicted for, or "
        "write it again with 'renaissance evaluate --predictions'"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."


FORMATS: dict[
    Task,
    tuple[Callable[[Path], Iterator[Identifier]], Callable[[Path], Iterator[Entry]]],
] = {
    Task.VQA: (_vqa_questions, _vqa_predictions),
    Task.NLVR2: (_nlvr2_questions, _nlvr2_predictions),
    Task.SNLI_VE: (_snli_ve_questions, _snli_ve_predictions),
}
