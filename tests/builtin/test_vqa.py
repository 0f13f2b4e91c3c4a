import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from PIL import Image
from support.answering import (
    all_samples,
    collate,
    dataset,
    measured,
    objective,
    png,
    predicting,
    sample,
    write_table,
    written,
)
from support.preparing import prepare
from support.tasks import TASKS, question

from renaissance import DataError
from renaissance.builtin.datasets.vqav2 import VQAv2
from renaissance.builtin.objectives.vqa import VQA
from renaissance.builtin.sources.vqa_answers import normalize_answer, soft_scores
from renaissance.testing import check_dataset, check_objective


def table(**columns: Any) -> dict[str, Any]:
    return {
        "image": [png(1), png(2)],
        "questions": [["is it one", "two elephants"], ["a photo"]],
        "answers": [[["yes", "no"], ["two"]], [["no"]]],
        "answer_labels": [[[0, 1], [2]], [[1]]],
        "answer_scores": [[[1.0, 0.3], [0.6]], [[0.9]]],
        "image_id": [42, 43],
        "question_id": [[420, 421], [430]],
        **columns,
    }


def test_one_sample_per_question(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_table(tmp_path / f"vqav2_{split}.arrow", table())
    check_dataset(VQAv2, root=tmp_path)
    samples = all_samples(dataset(VQAv2, tmp_path))
    assert [s.text for s in samples] == ["is it one", "two elephants", "a photo"]
    assert samples[0].labels == {
        "question_id": 420,
        "answers": ["yes", "no"],
        "answer_labels": [0, 1],
        "answer_scores": [1.0, 0.3],
    }
    assert samples[0].image_ids == samples[1].image_ids != samples[2].image_ids


def test_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    as_floats = table(
        question_id=[[420.0, 421.0], [430.0]], answer_labels=[[[0.0, 1.0], [2.0]], [[1.0]]]
    )
    write_table(tmp_path / "vqav2_train.arrow", as_floats)
    last = all_samples(dataset(VQAv2, tmp_path))[2]
    assert json.dumps([last.labels["question_id"], last.labels["answer_labels"]]) == "[430, [1]]"


@pytest.mark.parametrize(
    ("training", "split", "file"),
    [
        (True, None, "train"),
        (False, None, "val"),
        (False, "test", "test"),
        (False, "test-dev", "test-dev"),
        (True, "trainable-val", "trainable_val"),
        (False, "rest-val", "rest_val"),
    ],
)
def test_splits(tmp_path: Path, training: bool, split: str | None, file: str) -> None:
    # No other file is there: training reads none of those that validation reads.
    columns = table()
    if split in ("test", "test-dev"):
        for name in ("answers", "answer_labels", "answer_scores"):
            del columns[name]
    write_table(tmp_path / f"vqav2_{file}.arrow", columns)
    made = dataset(VQAv2, tmp_path, training, split=split)
    labels = {"question_id", "answers", "answer_labels", "answer_scores"}
    if split in ("test", "test-dev"):
        labels = {"question_id"}
    assert made.provides == {"text", "image"} | labels
    assert {frozenset(s.labels) for s in all_samples(made)} == {frozenset(labels)}


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    bad = table(
        questions=[["is it one", None], [" "]],
        answer_labels=[[[0], [2]], [[1]]],
    )
    write_table(tmp_path / "vqav2_train.arrow", bad)
    made = dataset(VQAv2, tmp_path)
    for index, message in (
        (0, r"^vqav2_train\.arrow: row 0, question 0: 2 answers, 1 answer_labels and 2 answer_sc"),
        (1, r"row 0, question 1: column 'questions' has no value for text 1"),
        (2, r"row 1, question 0: the text is ' '; expected at least one word"),
    ):
        with pytest.raises(DataError, match=message):
            made.sample(index, None)  # type: ignore[arg-type]


def official_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Mean, over leaving out each of ten people, of how many others agree, a third each."""
    if len(set(humans)) > 1:
        answer, humans = normalize_answer(answer), [normalize_answer(human) for human in humans]
    total = 0.0
    for left_out in range(len(humans)):
        others = [human for place, human in enumerate(humans) if place != left_out]
        total += min(1.0, sum(other == answer for other in others) / 3)
    return total / len(humans)


@pytest.mark.parametrize("count", range(11))
def test_a_soft_score_is_the_official_accuracy(count: int) -> None:
    humans = ["yes"] * count + ["no"] * (10 - count)
    scores = dict(soft_scores(humans, {"yes": 0}))
    assert scores.get(0, 0.0) == pytest.approx(official_accuracy("yes", humans))


def test_a_label_beyond_the_vocabulary(tmp_path: Path) -> None:
    root = TASKS["vqa"].root(tmp_path)
    with pytest.raises(DataError) as error:
        collate(objective(VQA, root), [question("one", 0, {3: 1.0})])
    assert str(error.value) == (
        f"given: 0: answer label 3; expected 0 to 2, because {root}/vqav2_answers.json has 3 "
        "answers. Set answers to the list that was prepared with this file"
    )


def test_labels_of_data_prepared_with_other_answers_follow_their_names(tmp_path: Path) -> None:
    (tmp_path / "vqav2_answers.json").write_text('["yes", "no", "two"]')
    made = objective(VQA, tmp_path, kept={"answers": ["two", "maybe", "yes"]})
    labels = {"question_id": 1, "answer_labels": [0, 1, 2], "answer_scores": [1.0, 0.6, 0.3]}
    # "no" is no class of the model.
    assert made.target(sample("a photo", labels)).tolist() == pytest.approx([0.3, 0.0, 1.0])


def test_vocabularies_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "vqav2_answers.json"
    with pytest.raises(
        DataError,
        match=r"vqav2_answers\.json: no such file.*Run 'renaissance data prepare vqav2', which",
    ):
        objective(VQA, tmp_path)
    for text, message in (
        ("[", "cannot be read"),
        ('{"yes": 0}', "expected a JSON list of distinct texts"),
        ("[]", "expected a JSON list of distinct texts"),
        ('["yes", "yes"]', "expected a JSON list of distinct texts"),
        ("[1]", "expected a JSON list of distinct texts"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            objective(VQA, tmp_path)


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real questions",
)
def test_accuracy_of_real_questions_is_the_official_one(tmp_path: Path) -> None:
    source = Path(os.environ["RENAISSANCE_SHARED_DATA"], "vqa_v2")
    prepare("vqav2", source, tmp_path)
    people = {
        annotation["question_id"]: [a["answer"] for a in annotation["answers"]]
        for split in ("train", "val")
        for annotation in json.loads(
            (source / f"v2_mscoco_{split}2014_annotations.json").read_text()
        )["annotations"]
    }
    made = objective(VQA, tmp_path)
    for split in ("train", "validate"):
        picture = (Image.new("RGB", (8, 8)),)
        samples = [
            attrs.evolve(sample, images=picture)
            for sample in all_samples(dataset(VQAv2, tmp_path, split=split))
        ]
        batch = collate(made, samples).objectives["task"]
        # Every class is predicted of some question.
        logits = torch.eye(len(made.classes)).repeat(len(samples), 1)[: len(samples)]
        output = predicting(made, batch, logits.tolist())
        official = [
            official_accuracy(row["answer"], people[row["question_id"]])
            for row in json.loads(written(made, made.predictions(batch, output)))
        ]
        assert len(official) == len(samples)
        assert sum(official) > 0
        expected = sum(official) / len(official)
        assert measured(made, [(batch, output)])["accuracy"] == pytest.approx(expected)


ANSWERED = [
    ("two elephants", ["red"] * 4),
    ("a photo", "blue"),
    ("one umbrella", ["red", "blue", "red"]),
    ("swimming", ["green"] * 9 + ["red"]),
    ("nearby", "green"),
    ("and one", ["pink"]),
]


def own_questions(answers: Sequence[Any]) -> list[Any]:
    return [sample("two elephants", {"reply": a}, n) for n, a in enumerate(answers)]


def own_task(**options: Any) -> Any:
    training = own_questions([answer for _, answer in ANSWERED])
    return objective(VQA, training=training, label="reply", **options)


@pytest.mark.parametrize("modalities", [("text", "image"), ("text",), ("image",)])
def test_the_contract_with_answers_of_the_data(modalities: Any) -> None:
    samples = [sample(text, {"reply": a}, n) for n, (text, a) in enumerate(ANSWERED)]
    check_objective(VQA, VQA.Options(label="reply", modalities=modalities), samples=samples)


def test_answers_of_the_data_are_the_most_frequent() -> None:
    # Of the questions: red 3, blue and green 2, pink 1.
    assert own_task().classes == ("red", "blue", "green", "pink")
    assert own_task(max_answers=2).classes == ("red", "blue")


def test_scores_of_answers_of_the_data() -> None:
    task = own_task(max_answers=3)
    answers = ["green", ["red", "blue", "red"], ["green"] * 9 + ["red"], ["pink", 3], []]
    batch = collate(task, own_questions(answers)).objectives["task"]
    expected = [
        [0, 0, 1],
        [2 / 3, 1 / 3, 0],
        [0.3, 0, 1],
        # Other answers are no classes, and no fault.
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert batch.tensors["labels"].tolist() == [pytest.approx(row) for row in expected]
    output = predicting(task, batch, [[0.0, 0.0, 1.0]] + [[1.0, 0.0, 0.0]] * 4)
    assert measured(task, [(batch, output)])["accuracy"] == pytest.approx((1 + 2 / 3 + 0.3) / 5)
    assert json.loads(written(task, task.predictions(batch, output)))[:2] == [
        {"index": 0, "answer": "green"},
        {"index": 1, "answer": "red"},
    ]


@pytest.mark.parametrize("count", range(11))
def test_scores_of_ten_answers_are_the_official_ones(count: int) -> None:
    people = ["green"] * count + ["blue"] * (10 - count)
    batch = collate(own_task(), own_questions([people])).objectives["task"]
    expected = official_accuracy("green", people)
    assert float(batch.tensors["labels"][0, 2]) == pytest.approx(expected)


def test_a_missing_answer() -> None:
    with pytest.raises(DataError) as caught:
        collate(own_task(), own_questions([None]))
    assert str(caught.value) == (
        "given: 0: label 'reply' is missing (None). Correct the row, or leave it out"
    )
