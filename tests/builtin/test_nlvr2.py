import json
import multiprocessing
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from renaissance.builtin.datasets.nlvr2 import NLVR2Data
from renaissance.builtin.objectives.nlvr2 import NLVR2, Consistency
from renaissance.data.prepare.datasets import SOURCES
from renaissance.data.prepare.tables import PrepareOptions, write_tables
from renaissance.testing import check_dataset, check_objective


def table(**columns: Any) -> dict[str, Any]:
    return {
        "image_0": [png(1), png(3)],
        "image_1": [png(2), png(4)],
        "questions": [["two elephants", "a photo"], ["a photo"]],
        "answers": [["True", "False"], ["True"]],
        "identifier": ["dev-850-0", "dev-850-1"],
        **columns,
    }


IDENTIFIERS = [["dev-850-0-0", "dev-850-0-1"], ["dev-850-1-1"]]


def test_a_sample_a_sentence(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_table(tmp_path / f"nlvr2_{split}.arrow", table(identifiers=IDENTIFIERS))
    check_dataset(NLVR2Data, root=tmp_path)
    samples = all_samples(dataset(NLVR2Data, tmp_path))
    assert [s.text for s in samples] == ["two elephants", "a photo", "a photo"]
    assert [s.labels["answer"] for s in samples] == [1, 0, 1]
    assert [s.labels["identifier"] for s in samples] == [
        "dev-850-0-0",
        "dev-850-0-1",
        "dev-850-1-1",
    ]
    levels = [[int(np.asarray(image)[0, 0]) for image in s.images] for s in samples]
    assert levels == [[1, 2], [1, 2], [3, 4]]
    assert samples[0].image_ids == samples[1].image_ids
    assert len({i for s in samples for i in s.image_ids}) == 4


def test_files_without_official_identifiers(tmp_path: Path) -> None:
    write_table(tmp_path / "nlvr2_dev.arrow", table())
    samples = all_samples(dataset(NLVR2Data, tmp_path, training=False))
    assert [s.labels["identifier"] for s in samples] == [
        "dev-850-0#0",
        "dev-850-0#1",
        "dev-850-1#0",
    ]


@pytest.mark.parametrize(
    ("training", "split", "file"),
    [
        (True, None, "train"),
        (False, None, "dev"),
        (False, "test", "test1"),
        (False, "balanced-validate", "balanced_dev"),
        (False, "unbalanced-test", "unbalanced_test1"),
    ],
)
def test_splits(tmp_path: Path, training: bool, split: str | None, file: str) -> None:
    write_table(tmp_path / f"nlvr2_{file}.arrow", table())
    assert len(dataset(NLVR2Data, tmp_path, training, split=split)) == 3


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    bad = table(
        questions=[["", "a photo"], ["a photo"]],
        answers=[["True", "maybe"], ["True"]],
        image_1=[png(1), None],
    )
    write_table(tmp_path / "nlvr2_train.arrow", bad)
    made = dataset(NLVR2Data, tmp_path)
    for index, message in (
        (0, r"^nlvr2_train\.arrow: row 0, sentence 0: the text is ''"),
        (1, r"row 0, sentence 1: column 'answers' holds 'maybe'; expected True or False"),
        (2, r"row 1, sentence 0: image_1 is null; expected the bytes"),
    ):
        with pytest.raises(DataError, match=message):
            made.sample(index, None)  # type: ignore[arg-type]


def example(identifier: str, text: str, answer: int, number: int = 0) -> Sample:
    return sample(text, {"identifier": identifier, "answer": answer}, number, num_images=2)


SAMPLES = [
    example("dev-850-0-0", "two elephants", 1, 0),
    example("dev-850-1-0", "two elephants", 0, 1),
    example("dev-850-0-1", "a photo of one umbrella", 0, 0),
    example("dev-9-0-0", "two elephants", 1, 2),
]


def test_the_contract_is_kept() -> None:
    check_objective(NLVR2, samples=SAMPLES)


def test_both_images_with_their_types() -> None:
    micro_batch = collate(objective(NLVR2), SAMPLES)
    batch = micro_batch.objectives["task"]
    assert batch.pairs is not None
    assert batch.pairs.image_types is not None
    assert micro_batch.pixel_values is not None
    # The images of the third sample are those of the first.
    assert len(micro_batch.pixel_values) == 6
    assert batch.pairs.image_types.tolist() == [1, 2] * 4
    assert batch.pairs.text_rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    levels = micro_batch.pixel_values[batch.pairs.image_rows][:, 0, 0, 0].tolist()
    assert levels == [0, 1, 10, 11, 0, 1, 20, 21]


def test_the_two_pooled_vectors_are_classified_together() -> None:
    weight = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0, 0]])
    head = nn.Linear(6, 2, bias=False)
    head.weight.data = weight
    made = objective(NLVR2, head=head)
    batch = collate(made, SAMPLES[:2]).objectives["task"]
    # The first number of each of four vectors: sample 0's images, sample 1's images.
    pooled = torch.zeros(4, 3)
    pooled[:, 0] = torch.tensor([1.0, 4.0, 2.0, 0.5])
    output = forward(made, batch, pooled)
    assert output.predictions["logits"].tolist() == [[1.0, 4.0], [2.0, 0.5]]
    expected = np.log(1 + np.exp(1.0 - 4.0)) + np.log(1 + np.exp(0.5 - 2.0))
    assert float(output.loss_sum.detach()) == pytest.approx(expected, rel=1e-5)


def test_one_image_is_refused() -> None:
    one = sample("a photo", {"identifier": "dev-1-0-0", "answer": 1})
    with pytest.raises(DataError, match=r"^given: 0: the number of images is 1; nlvr2 expects 2"):
        collate(objective(NLVR2), [one])


def official_consistency(predictions: dict[str, str], labels: dict[str, str]) -> float:
    """Right in every pair of a set, by the identifiers without the number of the pair."""
    consistent: dict[tuple[str, ...], bool] = defaultdict(lambda: True)
    for identifier, label in labels.items():
        split, which_set, _, sentence = identifier.split("-")
        consistent[split, which_set, sentence] &= predictions[identifier] == label
    return sum(consistent.values()) / len(consistent)


def test_metrics_and_predictions() -> None:
    made = objective(NLVR2)
    # Right, wrong; right; right: of three sentences, the first is wrong with one of its pairs.
    logits = [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    for split in ([4], [2, 2], [1, 3]):
        steps, start = [], 0
        for size in split:
            batch = collate(made, SAMPLES[start : start + size]).objectives["task"]
            steps.append((batch, predicting(made, batch, logits[start : start + size])))
            start += size
        assert measured(made, steps) == pytest.approx({"accuracy": 3 / 4, "consistency": 2 / 3})
    batch = collate(made, SAMPLES).objectives["task"]
    rows = made.predictions(batch, predicting(made, batch, logits))
    assert written(made, rows) == (
        "dev-850-0-0,True\ndev-850-1-0,True\ndev-850-0-1,False\ndev-9-0-0,True\n"
    )
    predictions = {row["identifier"]: row["prediction"] for row in rows}
    labels = {s.labels["identifier"]: ("False", "True")[s.labels["answer"]] for s in SAMPLES}
    assert official_consistency(predictions, labels) == pytest.approx(2 / 3)


def test_without_labels() -> None:
    labels = [{"identifier": f"test2-{i}-0-0"} for i in range(2)]
    samples = [sample("a photo", own, i, num_images=2) for i, own in enumerate(labels)]
    check_unlabelled(objective(NLVR2), samples, 4)


def test_the_panel() -> None:
    made = objective(NLVR2)
    micro_batch = collate(made, SAMPLES[:1])
    batch = micro_batch.objectives["task"]
    output = predicting(made, batch, [[1.0, 0.0]])
    assert [entry.lines for entry in made.panel(batch, output, micro_batch.input_ids)] == [
        ("False (truth: True), image 1 of 2: two elephants",),
        ("False (truth: True), image 2 of 2: two elephants",),
    ]


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real sentences",
)
def test_consistency_of_the_official_sentences(tmp_path: Path) -> None:
    source = tmp_path / "nlvr2"
    lines = Path(os.environ["RENAISSANCE_SHARED_DATA"], "nlvr2/nlvr2/data/dev.json").read_text()
    entries = [json.loads(line) for line in lines.splitlines()][:1500]
    put(source / "nlvr2/data/dev.json", "\n".join(map(json.dumps, entries)).encode())
    for entry in entries:
        for side in range(2):
            put(source / f"dev/{entry['identifier'].rpartition('-')[0]}-img{side}.png", png(side))
    options = PrepareOptions(output=tmp_path, progress=False, workers=1)
    write_tables(SOURCES["nlvr2"](source, None), options)
    samples = all_samples(dataset(NLVR2Data, tmp_path, training=False))
    labels = {entry["identifier"]: entry["label"] for entry in entries}
    assert {s.labels["identifier"] for s in samples} == set(labels)
    made = objective(NLVR2)
    steps, rows = [], []
    generator = np.random.default_rng(0)
    for start in range(0, len(samples), 100):
        batch = collate(made, samples[start : start + 100]).objectives["task"]
        # Right nine times in ten.
        answers = batch.tensors["labels"].numpy()
        answers = np.where(generator.random(len(answers)) < 0.9, answers, 1 - answers)
        output = predicting(made, batch, np.eye(2)[answers].tolist())
        steps.append((batch, output))
        rows += made.predictions(batch, output)
    predictions = dict(line.split(",") for line in written(made, rows).splitlines())
    found = measured(made, steps)
    right = np.mean([predictions[identifier] == label for identifier, label in labels.items()])
    assert found["accuracy"] == pytest.approx(right, rel=1e-5)
    assert found["consistency"] == pytest.approx(official_consistency(predictions, labels))
    assert found["consistency"] < found["accuracy"]


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# Groups of the examples of each of two ranks, and which are right.
RANKS = [
    ([2**62, -7, 3], [True, True, False]),
    ([-7, 2**62 + 1], [False, True]),
]


@pytest.mark.parametrize(("num_with_examples", "expected"), [(2, 2 / 4), (1, 2 / 3)])
def test_consistency_over_ranks(tmp_path: Path, num_with_examples: int, expected: float) -> None:
    # Groups 3 and, on the second rank only, -7 are wrong.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(target=one_rank, args=(rank, num_with_examples, tmp_path, results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    shares = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join()
    assert shares == pytest.approx([expected, expected])


def one_rank(rank: int, num_with_examples: int, folder: Path, results: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    metric = Consistency()
    if rank < num_with_examples:
        groups, right = RANKS[rank]
        for group, is_right in zip(groups, right, strict=True):
            metric.update(torch.tensor([group]), torch.tensor([is_right]))
    results.put(float(metric.compute()))
    torch.distributed.destroy_process_group()
