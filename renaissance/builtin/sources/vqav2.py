"""VQA v2: questions about images, each with the answers of ten people."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import attrs

from renaissance import (
    DataError,
    ImageFile,
    LeftOut,
    Record,
    Source,
    SourceContext,
    option,
    positive,
)
from renaissance.builtin.formats import VQAV2 as FORMAT
from renaissance.builtin.formats import VQAV2_ANSWERS_FILE
from renaissance.builtin.sources.vqa_answers import MIN_COUNT, answer_vocabulary, soft_scores
from renaissance.prepare import files_by_split, held_out, json_elements, text_fault

QUESTIONS = {
    split: f"v2_OpenEnded_mscoco_{name}_questions.json"
    for split, name in (
        ("train", "train2014"),
        ("val", "val2014"),
        ("test", "test2015"),
        ("test-dev", "test-dev2015"),
    )
}
ANNOTATIONS = {split: f"v2_mscoco_{split}2014_annotations.json" for split in ("train", "val")}
FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test2015"}
REMEDY = "Unpack the questions and annotations of visualqa.org there, beside the folders of images"
# Number of images of val that are held out from training; half of val if that is less.
NUM_REST_IMAGES = 1000

# (label, score) of each class that scores on a question.
Scores = Sequence[tuple[int, float]]


class VQAv2(Source):
    """VQA v2 (Goyal et al., 2017): questions about images, with ten answers each.

    The folder holds the images of COCO, and the questions and annotations of visualqa.org:

        train2014/  val2014/  test2015/
        v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
        v2_mscoco_{train2014,val2014}_annotations.json

    Writes `vqav2_{train,val,trainable_val,rest_val,test,test-dev}.arrow`, one row per image, and
    `vqav2_answers.json`, the classes by label. trainable_val and rest_val are the two parts of val:
    one to train on, and one of 1,000 images to validate on.

    An answer becomes a class if it is the most frequent answer of at least `--min-count` questions
    of train and val; the whole dataset has 3,129 classes. Questions of train and val on which no
    class scores are left out.
    """

    name = FORMAT.name
    schema = FORMAT.schema

    @attrs.frozen
    class Options:
        """Options of `vqav2`."""

        min_count: int = option(
            MIN_COUNT,
            help="Number of questions whose most frequent answer an answer must be to become a "
            "class.",
            validator=positive,
        )

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        self._folder = Path(context.path)
        self._questions = files_by_split(context, QUESTIONS, REMEDY)
        self._classes: Sequence[str] = ()
        if self._questions.keys() & ANNOTATIONS.keys():
            self._classes = _read_classes(context, options.min_count)
            self.beside = {VQAV2_ANSWERS_FILE: self._classes}

    def records(self) -> Iterator[Record | LeftOut]:
        """List one row per image; those of val twice: for val, and for one of its parts."""
        for split, questions in self._questions.items():
            scores = _read_scores(self._folder, split, self._classes)
            yield from _records(_Split(self._folder, split, self._classes, scores), questions)


class _Entry(TypedDict):
    """What is needed of an official question."""

    question_id: int
    question: str


@attrs.frozen
class _Question:
    question_id: int
    text: str
    # Empty for test questions, whose answers are not public.
    scores: Scores


@attrs.frozen
class _Split:
    """A split, its classes, and the scores by question; None if its answers are not public."""

    folder: Path
    name: str
    classes: Sequence[str]
    scores: Mapping[int, Scores] | None

    def fault(self, entry: _Entry) -> str | None:
        fault = text_fault(entry["question"])
        if fault is not None:
            return f"question {fault}"
        if self.scores is None:
            return None
        scores = self.scores.get(entry["question_id"])
        if scores is None:
            return "no annotation"
        return None if scores else "no answer is among the classes"

    def question(self, entry: _Entry) -> _Question:
        question_id = entry["question_id"]
        scores = () if self.scores is None else self.scores[question_id]
        return _Question(question_id, entry["question"], scores)

    def row(self, image_id: int, questions: Sequence[_Question]) -> Record:
        folder = FOLDERS[self.name]
        path = self.folder / folder / f"COCO_{folder}_{image_id:012d}.jpg"
        answered = () if self.scores is None else questions
        values = {
            "questions": [question.text for question in questions],
            "answers": [
                [self.classes[label] for label, _ in question.scores] for question in answered
            ],
            "answer_labels": [[label for label, _ in question.scores] for question in answered],
            "answer_scores": [[score for _, score in question.scores] for question in answered],
            "image_id": image_id,
            "question_id": [question.question_id for question in questions],
            "split": self.name,
        }
        images = {"image": ImageFile(str(path))}
        return Record(FORMAT.table(self.name), images, values, len(questions))


def _read_classes(context: SourceContext, min_count: int) -> Sequence[str]:
    # From train and val, whichever splits are prepared, so that labels are always the same.
    both = SourceContext(context.path, tuple(ANNOTATIONS))
    majority = (
        annotation["multiple_choice_answer"]
        for path in files_by_split(both, ANNOTATIONS, REMEDY).values()
        for annotation in json_elements(path, "annotations")
    )
    classes = answer_vocabulary(majority, min_count)
    if not classes:
        raise DataError(
            f"{context.path}: no answer is the most frequent one of {min_count} questions; "
            f"expected the annotations of the whole dataset, or a smaller --min-count. {REMEDY}"
        )
    return classes


def _read_scores(
    folder: Path, split: str, classes: Sequence[str]
) -> dict[int, list[tuple[int, float]]] | None:
    if split not in ANNOTATIONS:
        return None
    labels = {answer: label for label, answer in enumerate(classes)}
    return {
        annotation["question_id"]: soft_scores(
            [answer["answer"] for answer in annotation["answers"]], labels
        )
        for annotation in json_elements(folder / ANNOTATIONS[split], "annotations")
    }


def _records(split: _Split, questions: Path) -> Iterator[Record | LeftOut]:
    by_image: dict[int, list[_Question]] = {}
    for entry in json_elements(questions, "questions"):
        fault = split.fault(entry)
        if fault is None:
            by_image.setdefault(entry["image_id"], []).append(split.question(entry))
        else:
            where = f"question {entry['question_id']}"
            yield LeftOut(FORMAT.table(split.name), where, fault, is_row=False)
    rest = _rest_images(list(by_image)) if split.name == "val" else frozenset()
    for image_id, image_questions in by_image.items():
        record = split.row(image_id, image_questions)
        yield record
        if split.name == "val":
            part = "rest_val" if image_id in rest else "trainable_val"
            yield attrs.evolve(record, table=FORMAT.table(part))


def _rest_images(image_ids: Sequence[int]) -> frozenset[int]:
    count = min(NUM_REST_IMAGES, len(image_ids) // 2)
    return frozenset(held_out(image_ids, count, "vqav2_rest_val"))
