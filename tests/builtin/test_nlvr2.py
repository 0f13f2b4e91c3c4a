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
from support.tasks import TASKS

from renaissance import DataError
from renaissance.builtin.datasets.nlvr2 import NLVR2Data
from renaissance.builtin.objectives.consistency import Consistency
from renaissance.builtin.objectives.nlvr2 import NLVR2
from renaissance.testing import check_dataset


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


def test_one_sample_per_sentence(tmp_path: Path) -> None:
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


SAMPLES = TASKS["nlvr2"].samples


def test_both_images_with_their_types() -> None:
    micro_batch = collate(objective(NLVR2), SAMPLES)
    batch = micro_batch.objectives["task"]
    pairs = batch.fused_pairs
    assert pairs.image_types is not None
    assert micro_batch.pixel_values is not None
    # The images of the third sample are those of the first.
    assert len(micro_batch.pixel_values) == 6
    assert pairs.image_types.tolist() == [1, 2] * 4
    assert pairs.text_rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    levels = micro_batch.pixel_values[pairs.image_rows][:, 0, 0, 0].tolist()
    assert levels == [0, 1, 10, 11, 0, 1, 20, 21]


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


def test_the_expected_consistency_is_the_official_one() -> None:
    task = TASKS["nlvr2"]
    predictions = dict(line.split(",") for line in task.file.splitlines())
    labels = {s.labels["identifier"]: ("False", "True")[s.labels["answer"]] for s in SAMPLES}
    assert official_consistency(predictions, labels) == pytest.approx(task.metrics["consistency"])


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
    prepare("nlvr2", source, tmp_path)
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
