"""VQA v2 (Goyal et al., 2017): questions about images, with ten people's answers each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa

from renaissance.data.order import Permutation
from renaissance.data.prepare.json_arrays import json_elements
from renaissance.data.prepare.paths import files_by_split
from renaissance.data.prepare.records import ImageFile, LeftOut, Record, Source, text_fault
from renaissance.data.prepare.vqa_answers import MIN_COUNT, answer_vocabulary, soft_scores
from renaissance.errors import DataError
from renaissance.randomness import keyed_seed

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
VOCABULARY = "vqav2_answers.json"
# So many images of val are kept apart from training, half of them where there are few.
NUM_REST_IMAGES = 1000
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("questions", pa.list_(pa.string())),
        # Of each question: the classes among the answers, as text, as labels, and their scores.
        ("answers", pa.list_(pa.list_(pa.string()))),
        ("answer_labels", pa.list_(pa.list_(pa.int64()))),
        ("answer_scores", pa.list_(pa.list_(pa.float64()))),
        ("image_id", pa.int64()),
        ("question_id", pa.list_(pa.int64())),
        ("split", pa.string()),
    ]
)


@attrs.frozen
class _Question:
    question_id: int
    text: str
    # Label and score of each class among the answers; nothing is known of test questions.
    scores: list[tuple[int, float]]


def vqav2_source(
    source: Path, splits: Sequence[str] | None = None, min_count: int = MIN_COUNT
) -> Source:
    """List `vqav2_{train,val,trainable_val,rest_val,test,test-dev}.arrow`, one row an image.

    `val` is written whole and in two parts: `trainable_val`, which is trained on, and `rest_val`,
    which is validated on. Answers that are the most frequent one of at least `min_count` questions
    of train and val are the classes (of nine, which makes 3,129 of the whole dataset);
    `vqav2_answers.json` lists them by label. Questions of train and val whose answers are none of
    them teach nothing and are left out.

    Args:
        source: Folder with `train2014/`, `val2014/`, `test2015/`, and the official questions and
            annotations.
        splits: The splits to prepare; None for those whose questions are there.
        min_count: How often an answer must be the most frequent one to become a class.

    Raises:
        DataError: If the annotations cannot be found or used.
    """
    questions = files_by_split(source, QUESTIONS, splits, REMEDY)
    classes: list[str] = []
    if questions.keys() & ANNOTATIONS.keys():
        # The classes depend on both, whichever split is prepared.
        annotations = files_by_split(source, ANNOTATIONS, tuple(ANNOTATIONS), REMEDY)
        majority = (
            annotation["multiple_choice_answer"]
            for path in annotations.values()
            for annotation in json_elements(path, "annotations")
        )
        classes = answer_vocabulary(majority, min_count)
        if not classes:
            raise DataError(
                f"{source}: no answer is the most frequent one of {min_count} questions; expected "
                f"the annotations of the whole dataset, or a smaller --min-count. {REMEDY}"
            )

    def records() -> Iterator[Record | LeftOut]:
        for split in questions:
            yield from _records(source, split, classes)

    beside = {VOCABULARY: classes} if classes else {}
    return Source(name="vqav2", path=str(source), schema=SCHEMA, records=records, beside=beside)


def _records(source: Path, split: str, classes: Sequence[str]) -> Iterator[Record | LeftOut]:
    table = f"vqav2_{split}"
    scores = _read_scores(source, split, classes) if split in ANNOTATIONS else None
    by_image: dict[int, list[_Question]] = {}
    for entry in json_elements(source / QUESTIONS[split], "questions"):
        fault = _fault(entry, scores)
        if fault is None:
            found = scores[entry["question_id"]] if scores is not None else []
            question = _Question(entry["question_id"], entry["question"], found)
            by_image.setdefault(entry["image_id"], []).append(question)
        else:
            yield LeftOut(table, f"question {entry['question_id']}", fault, is_row=False)
    rest = _rest_images(list(by_image)) if split == "val" else frozenset()
    for image_id, questions in by_image.items():
        record = _row(source, split, image_id, questions, classes)
        yield record
        if split == "val":
            part = "rest_val" if image_id in rest else "trainable_val"
            yield attrs.evolve(record, table=f"vqav2_{part}")


def _read_scores(
    source: Path, split: str, classes: Sequence[str]
) -> dict[int, list[tuple[int, float]]]:
    labels = {answer: label for label, answer in enumerate(classes)}
    return {
        annotation["question_id"]: soft_scores(
            [answer["answer"] for answer in annotation["answers"]], labels
        )
        for annotation in json_elements(source / ANNOTATIONS[split], "annotations")
    }


def _fault(
    entry: Mapping[str, Any], scores: Mapping[int, list[tuple[int, float]]] | None
) -> str | None:
    fault = text_fault(entry["question"])
    if fault is not None:
        return f"question {fault}"
    if scores is None:
        return None
    found = scores.get(entry["question_id"])
    if found is None:
        return "no annotation"
    return None if found else "no answer is among the classes"


def _rest_images(image_ids: Sequence[int]) -> frozenset[int]:
    if not image_ids:
        return frozenset()
    order = Permutation(len(image_ids), keyed_seed(0, "vqav2_rest_val"))
    count = min(NUM_REST_IMAGES, len(image_ids) // 2)
    return frozenset(image_ids[order[i]] for i in range(count))


def _row(
    source: Path, split: str, image_id: int, questions: Sequence[_Question], classes: Sequence[str]
) -> Record:
    folder = FOLDERS[split]
    path = source / folder / f"COCO_{folder}_{image_id:012d}.jpg"
    known = questions if split in ANNOTATIONS else ()
    values = {
        "questions": [question.text for question in questions],
        "answers": [[classes[label] for label, _ in question.scores] for question in known],
        "answer_labels": [[label for label, _ in question.scores] for question in known],
        "answer_scores": [[score for _, score in question.scores] for question in known],
        "image_id": image_id,
        "question_id": [question.question_id for question in questions],
        "split": split,
    }
    return Record(f"vqav2_{split}", {"image": ImageFile(str(path))}, values, len(questions))
