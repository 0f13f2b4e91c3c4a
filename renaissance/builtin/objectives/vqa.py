"""Visual question answering as classification of frequent answers.

Goyal et al., "Making the V in VQA Matter", CVPR 2017; soft scores as targets after Teney et al.,
"Tips and Tricks for Visual Question Answering", CVPR 2018.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance import (
    Answer,
    BatchBuilder,
    Classification,
    DataError,
    Features,
    KeyedSample,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Submission,
    class_names,
    option,
    positive,
    quoted,
)
from renaissance.builtin.objectives import submissions
from renaissance.builtin.objectives.modalities import Inputs, identify, modalities_option


class VQA(Classification):
    """Predicts the soft scores of all answers in the vocabulary, by binary cross-entropy.

    The loss of a question is summed over the answers. Accuracy is the mean soft score of the
    predicted answers, as in the official evaluation: an answer that n of ten people gave scores
    min(n / 3, 1), averaged over the ten ways to leave one person out, which is 0.3, 0.6 and 0.9 for
    one, two and three people, and 1 for more. Preparation leaves out questions on which no answer
    in the vocabulary scores; the official figure counts them as 0.

    With `label`, the questions are those of any dataset: the classes are the most frequent answers
    of the training data, and a question may have one answer, or a list of one per person. Answers
    of fewer than four people score their share of the people. Here, accuracy counts questions with
    other answers as 0.
    """

    requires = frozenset({"text", "image", "question_id"})
    labels = frozenset({"answer_labels", "answer_scores"})
    identifier = "question_id"
    prediction = "answer"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `vqa`."""

        answers: str = option(
            "vqav2_answers.json",
            help="JSON list of the answers by class, relative to data.root, as written by "
            "`renaissance data prepare vqav2`.",
        )
        label: str | None = option(
            None,
            help="For data of your own: the label that holds the answer, or a list of answers. The "
            "classes are then the answers of the training data, and no file is read.",
        )
        max_answers: int = option(
            3000,
            help="With label: how many answers become classes, the most frequent ones.",
            validator=positive,
        )
        modalities: tuple[Literal["text", "image"], ...] = modalities_option(("text", "image"))

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.label = options.label
        self.path = context.root / options.answers
        self.inputs = Inputs.of(options.modalities, context.data)
        self.unimodal = self.inputs.unimodal
        if self.label is None:
            self.requires = frozenset({*self.inputs.modalities, "question_id"})
            self.classes = context.data.kept("answers", lambda: _read_answers(self.path))
            # The data may have been prepared with other answers than the model was trained with.
            prepared = _read_answers(self.path) if self.path.is_file() else self.classes
        else:
            self.requires = frozenset[str](self.inputs.modalities)
            self.labels = frozenset({self.label})
            self.classes = context.data.classes(self.label, most_frequent=options.max_answers).names
            prepared = self.classes
        self._index = {name: index for index, name in enumerate(self.classes)}
        self._class_of = [self._index.get(name) for name in prepared]
        self.head = context.make_head(self.inputs.size(context.sizes), len(self.classes))

    def identify(self, sample: KeyedSample) -> object:
        """Return the question's id; with `label`, its label "id" or its index."""
        return super().identify(sample) if self.label is None else identify(sample)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Request what it reads of each question."""
        pairs, tensors = self.inputs.rows(samples, builder)
        return self.batch_of(samples, pairs, tensors)

    def target(self, sample: KeyedSample) -> Tensor:
        """Return the score of every answer, (answers,).

        Raises:
            DataError: If a label is not a class of the vocabulary, or is missing.
        """
        if self.label is not None:
            return self._given_target(sample, self.label)
        count, labels = len(self._class_of), sample.labels
        scores = torch.zeros(len(self.classes))
        for label, score in zip(labels["answer_labels"], labels["answer_scores"], strict=True):
            if not 0 <= label < count:
                raise DataError(
                    f"{sample.source}: answer label {label}; expected 0 to {count - 1}, because "
                    f"{self.path} has {count} answers. Set answers to the list that was prepared "
                    "with this file"
                )
            index = self._class_of[label]
            if index is not None:
                scores[index] = score
        return scores

    def _given_target(self, sample: KeyedSample, label: str) -> Tensor:
        value = sample.labels[label]
        people = list(value) if isinstance(value, list | tuple) else [value]
        try:
            counts = Counter(name for answer in people for name in class_names(answer))
        except ValueError as error:
            raise DataError(
                f"{sample.source}: label '{label}' {error}. Correct the row, or leave it out"
            ) from error
        scores = torch.zeros(len(self.classes))
        for answer, count in counts.items():
            if answer in self._index:
                scores[self._index[answer]] = _soft_score(count, len(people))
        return scores

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Return the logit of every answer for each question."""
        return self.head(self.inputs.vectors(batch, features))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy, summed over questions and answers."""
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def score(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Return the scores of the predicted answers."""
        return labels.gather(-1, predicted[:, None])[:, 0]

    def true_classes(self, labels: Tensor) -> Tensor:
        """Return the answers with the highest scores."""
        return labels.argmax(-1)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return the predicted answer to each question."""
        rows = super().predictions(batch, output)
        if self.label is None:
            return rows
        return [
            {**identifier, self.prediction: row[self.prediction]}
            for identifier, row in zip(batch.identifiers, rows, strict=True)
            if isinstance(identifier, dict)
        ]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each answer, of which several may be right."""
        return logits.sigmoid()

    def write_predictions(self, rows: Sequence[Mapping[str, object]], file: TextIO) -> None:
        """Write one JSON list, the official format of a submission."""
        json.dump(list(rows), file)

    @classmethod
    def check_predictions(cls, file: Path, questions: Path) -> Submission:
        """Read predictions, and the questions from the official file of VQA v2."""
        expected = "a JSON list of {question_id, answer}"
        try:
            content = json.loads(submissions.read_text(file))
        except (ValueError, RecursionError) as error:
            raise submissions.wrong_form(file, f"not valid JSON ({error})", expected) from error
        if not isinstance(content, list):
            raise submissions.wrong_form(file, f"a JSON {type(content).__name__}", expected)
        answers = [_read_answer(f"entry {i}", entry) for i, entry in enumerate(content)]
        return Submission(list(_questions(questions)), answers)


def _soft_score(count: int, num_people: int) -> float:
    """Return the score of an answer that some of the people gave, as in the official evaluation."""
    if num_people < 4:
        return count / num_people
    # Leave out each person in turn: one who gave the answer, or one who did not.
    among_others = count * min((count - 1) / 3, 1) + (num_people - count) * min(count / 3, 1)
    return among_others / num_people


def _read_answers(path: Path) -> list[str]:
    """Return the answers by class.

    Raises:
        DataError: If the file is missing, or is not a list of distinct texts.
    """
    try:
        answers = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected the answers of vqa by class. Run 'renaissance data "
            "prepare vqav2', which writes it beside the tables, or set answers to its path"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a JSON list of the answers of vqa by "
            "class. Run 'renaissance data prepare vqav2' again"
        ) from error
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
        or len(set(answers)) != len(answers)
    ):
        raise DataError(
            f"{path}: expected a JSON list of distinct texts, the answers of vqa by class. Run "
            "'renaissance data prepare vqav2' again"
        )
    return answers


def _read_answer(where: str, entry: object) -> Answer:
    if not isinstance(entry, dict) or not entry.keys() >= {"question_id", "answer"}:
        fault = f"{quoted(entry)}; expected an object of question_id and answer"
        return Answer(where, None, fault)
    question_id, answer = entry["question_id"], entry["answer"]
    if type(question_id) is not int:
        fault = f"question_id is {quoted(question_id)}; expected a whole number"
        return Answer(where, None, fault)
    if not isinstance(answer, str) or not answer.strip():
        fault = f"answer is {quoted(answer)}; expected a text"
        return Answer(where, question_id, fault)
    return Answer(where, question_id)


def _questions(path: Path) -> Iterator[int]:
    """Yield the ids of the official questions."""
    expected = "the official questions of VQA v2"
    try:
        content = json.loads(submissions.read_text(path, expected))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); expected {expected}. Download the file again"
        ) from error
    questions = content.get("questions", []) if isinstance(content, dict) else []
    for index, question in enumerate(questions):
        question_id = question.get("question_id") if isinstance(question, dict) else None
        if type(question_id) is not int:
            raise DataError(
                f"{path}: questions[{index}]: question_id is {quoted(question_id)}; expected "
                f"{expected}, each with a whole number. Download the file again"
            )
        yield question_id
