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
    check_unlabelled,
    collate,
    dataset,
    forward,
    measured,
    objective,
    png,
    predicting,
    sample,
    write_table,
    written,
)
from torch import nn

from renaissance import DataError, Sample
from renaissance.builtin.datasets.vqav2 import VQAv2
from renaissance.builtin.objectives.vqa import VQA
from renaissance.data.prepare.datasets import SOURCES
from renaissance.data.prepare.tables import PrepareOptions, write_tables
from renaissance.data.prepare.vqa_answers import normalize_answer, soft_scores
from renaissance.testing import check_dataset, check_objective

ANSWERS = ["yes", "no", "two"]


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


def test_a_sample_a_question(tmp_path: Path) -> None:
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
        (1, r"row 0, question 1: column 'questions' holds nothing for text 1"),
        (2, r"row 1, question 0: the text is ' '; expected at least one word"),
    ):
        with pytest.raises(DataError, match=message):
            made.sample(index, None)  # type: ignore[arg-type]


def question(text: str, number: int, scores: dict[int, float]) -> Sample:
    labels = {
        "question_id": 100 + number,
        "answer_labels": list(scores),
        "answer_scores": list(scores.values()),
    }
    return sample(text, labels, number)


SAMPLES = [
    question("two elephants", 0, {2: 1.0, 0: 0.3}),
    question("a photo of one umbrella", 1, {1: 0.6}),
    question("swimming", 2, {0: 0.9, 1: 0.3}),
    question("one", 3, {}),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "vqav2_answers.json").write_text(json.dumps(ANSWERS))
    return tmp_path


def test_the_contract_is_kept(root: Path) -> None:
    options = VQA.Options(answers=str(root / "vqav2_answers.json"))
    check_objective(VQA, options, samples=SAMPLES)


def test_the_loss(root: Path) -> None:
    made = objective(VQA, root, head=nn.Identity())
    batch = collate(made, SAMPLES[:2]).objectives["task"]
    assert batch.num_targets == 2
    logits = [[0.5, -1.0, 2.0], [3.0, 0.0, -2.0]]
    targets = [[0.3, 0.0, 1.0], [0.0, 0.6, 0.0]]
    expected = 0.0
    for row, target in zip(torch.tensor(logits).double(), torch.tensor(targets), strict=True):
        share = 1 / (1 + (-row).exp())
        entropy = -(target * share.log() + (1 - target) * (1 - share).log())
        # The mean over the classes times their number.
        expected += float(entropy.mean() * 3)
    assert float(forward(made, batch, torch.tensor(logits)).loss_sum) == pytest.approx(expected)


def test_accuracy_and_predictions(root: Path) -> None:
    made = objective(VQA, root)
    steps = []
    for part, logits in (
        (SAMPLES[:3], [[0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]),
        (SAMPLES[3:], [[2.0, 1.0, 0.0]]),
    ):
        batch = collate(made, part).objectives["task"]
        steps.append((batch, predicting(made, batch, logits)))
    assert measured(made, steps) == pytest.approx({"accuracy": (1.0 + 0.0 + 0.3 + 0.0) / 4})
    rows = [row for batch, output in steps for row in made.predictions(batch, output)]
    assert json.loads(written(made, rows)) == [
        {"question_id": 100, "answer": "two"},
        {"question_id": 101, "answer": "yes"},
        {"question_id": 102, "answer": "no"},
        {"question_id": 103, "answer": "yes"},
    ]


def official_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Mean, over leaving out each of ten people, of how many others agree, a third each."""
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


def test_without_labels(root: Path) -> None:
    samples = [sample("a photo", {"question_id": i}, i) for i in range(2)]
    check_unlabelled(objective(VQA, root), samples, 2)


def test_the_panel(root: Path) -> None:
    made = objective(VQA, root)
    micro_batch = collate(made, SAMPLES[:2])
    batch = micro_batch.objectives["task"]
    output = predicting(made, batch, [[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    assert [entry.lines for entry in made.panel(batch, output, micro_batch.input_ids)] == [
        ("two elephants two (truth: two)",),
        ("a photo of one umbrella yes (truth: no)",),
    ]


def test_a_label_beyond_the_vocabulary(root: Path) -> None:
    with pytest.raises(DataError) as error:
        collate(objective(VQA, root), [question("one", 0, {3: 1.0})])
    assert str(error.value) == (
        f"given: 0: answer label 3; expected 0 to 2, for {root}/vqav2_answers.json has 3 answers. "
        "Set answers to the list that was prepared with this file"
    )


def test_vocabularies_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "vqav2_answers.json"
    with pytest.raises(
        DataError,
        match=r"vqav2_answers\.json: no such file.*Run 'renaissance data prepare vqav2', which",
    ):
        objective(VQA, tmp_path)
    for text, message in (
        ("[", "cannot be read"),
        ('{"yes": 0}', "expected a JSON list of different texts"),
        ("[]", "expected a JSON list of different texts"),
        ('["yes", "yes"]', "expected a JSON list of different texts"),
        ("[1]", "expected a JSON list of different texts"),
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
    options = PrepareOptions(output=tmp_path, progress=False, workers=1)
    write_tables(SOURCES["vqav2"](source, None), options)
    people = {
        annotation["question_id"]: [normalize_answer(a["answer"]) for a in annotation["answers"]]
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
        logits = torch.eye(len(made.answers)).repeat(len(samples), 1)[: len(samples)]
        output = predicting(made, batch, logits.tolist())
        official = [
            official_accuracy(row["answer"], people[row["question_id"]])
            for row in json.loads(written(made, made.predictions(batch, output)))
        ]
        assert len(official) == len(samples)
        assert sum(official) > 0
        expected = sum(official) / len(official)
        assert measured(made, [(batch, output)])["accuracy"] == pytest.approx(expected)
