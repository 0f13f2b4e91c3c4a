import os
from pathlib import Path

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

from renaissance import DataError
from renaissance.builtin.datasets.snli_ve import SNLIVEData
from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.data.prepare.datasets import SOURCES
from renaissance.data.prepare.tables import PrepareOptions, write_tables
from renaissance.testing import check_dataset, check_objective

SENTENCES = [[["a premise", "two elephants"], ["", "a photo"]], [["", "one umbrella"]]]


def write(root: Path, labels: object, sentences: object = SENTENCES, split: str = "train") -> None:
    write_table(
        root / f"snli_{split}.arrow",
        {"image": [png(1), png(2)], "sentences": sentences, "labels": labels},
    )


# As preparation writes them, and as pandas may.
@pytest.mark.parametrize("labels", [[[2, 0], [1]], [[2.0, 0.0], [1.0]]])
def test_a_sample_a_hypothesis(tmp_path: Path, labels: object) -> None:
    write(tmp_path, labels)
    write(tmp_path, labels, split="dev")
    check_dataset(SNLIVEData, root=tmp_path)
    samples = all_samples(dataset(SNLIVEData, tmp_path))
    assert [s.text for s in samples] == ["two elephants", "a photo", "one umbrella"]
    assert [s.labels["entailment"] for s in samples] == [2, 0, 1]
    assert [s.labels["identifier"] for s in samples] == ["0:0", "0:1", "1:0"]
    assert samples[0].image_ids == samples[1].image_ids != samples[2].image_ids


@pytest.mark.parametrize(
    ("training", "split", "file"),
    [(True, None, "train"), (False, None, "dev"), (False, "test", "test")],
)
def test_splits(tmp_path: Path, training: bool, split: str | None, file: str) -> None:
    write(tmp_path, [[0, 0], [0]], split=file)
    assert len(dataset(SNLIVEData, tmp_path, training, split=split)) == 3


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    sentences = [[["p", " "], ["p", "a photo"]], [["p", "a photo"], ["a photo"]]]
    write(tmp_path, [[0, 3], [1.5]], sentences)
    made = dataset(SNLIVEData, tmp_path)
    for index, message in (
        (0, r"^snli_train\.arrow: row 0, sentence 0: the text is ' '; expected at least one word"),
        (1, r"row 0, sentence 1: column 'labels' holds 3.0; expected a whole number from 0 to 2"),
        (2, r"row 1, sentence 0: column 'labels' holds 1.5; expected a whole number"),
        (3, r"row 1, sentence 1: column 'sentences' holds \['a photo'\]; expected a premise and"),
    ):
        with pytest.raises(DataError, match=message):
            made.sample(index, None)  # type: ignore[arg-type]
    write(tmp_path, [[0], [1]])
    with pytest.raises(DataError, match="column 'labels' holds nothing for text 1"):
        dataset(SNLIVEData, tmp_path).sample(1, None)  # type: ignore[arg-type]


SAMPLES = [
    sample("two elephants", {"entailment": 2, "identifier": "0:0"}, 0),
    sample("a photo of one umbrella", {"entailment": 0, "identifier": "0:1"}, 1),
    sample("swimming", {"entailment": 1, "identifier": "1:0"}, 2),
    sample("a photo", {"entailment": 1, "identifier": "2:0"}, 3),
]


def test_the_contract_is_kept() -> None:
    check_objective(SNLIVE, samples=SAMPLES)


def test_the_loss() -> None:
    made = objective(SNLIVE, head=nn.Identity())
    batch = collate(made, SAMPLES[:2]).objectives["task"]
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]])
    expected = sum(
        float(torch.logsumexp(row, 0) - row[label])
        for row, label in zip(logits, (2, 0), strict=True)
    )
    assert float(forward(made, batch, logits).loss_sum) == pytest.approx(expected, rel=1e-5)
    assert batch.num_targets == 2


def test_accuracy_and_predictions() -> None:
    made = objective(SNLIVE)
    steps = []
    for part, logits in (
        (SAMPLES[:3], [[0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [0.0, 1.0, 0.5]]),
        (SAMPLES[3:], [[2.0, 1.0, 0.0]]),
    ):
        batch = collate(made, part).objectives["task"]
        steps.append((batch, predicting(made, batch, logits)))
    # 2 is right, 1 for 0 wrong, 1 right, 0 for 1 wrong.
    assert measured(made, steps) == {"accuracy": 2 / 4}
    rows = [row for batch, output in steps for row in made.predictions(batch, output)]
    assert written(made, rows) == (
        "identifier,prediction\n0:0,entailment\n0:1,neutral\n1:0,neutral\n2:0,contradiction\n"
    )


def test_without_labels() -> None:
    samples = [sample("a photo", {"identifier": "0:0"}), sample("one", {"identifier": "1:0"}, 1)]
    check_unlabelled(objective(SNLIVE), samples, 2)


def test_the_panel() -> None:
    made = objective(SNLIVE)
    micro_batch = collate(made, SAMPLES[:2])
    batch = micro_batch.objectives["task"]
    output = predicting(made, batch, [[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    assert [entry.lines for entry in made.panel(batch, output, micro_batch.input_ids)] == [
        ("entailment (truth: entailment): two elephants",),
        ("neutral (truth: contradiction): a photo of one umbrella",),
    ]


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real photos",
)
def test_real_files(tmp_path: Path) -> None:
    source = Path(os.environ["RENAISSANCE_SHARED_DATA"], "snli_ve")
    options = PrepareOptions(output=tmp_path, progress=False, workers=1)
    write_tables(SOURCES["snli-ve"](source, None), options)
    train, dev = dataset(SNLIVEData, tmp_path), dataset(SNLIVEData, tmp_path, training=False)
    assert (len(train), len(dev)) == (2569, 648)
    samples = all_samples(dev)
    assert {s.labels["entailment"] for s in samples} == {0, 1, 2}
    assert len({s.labels["identifier"] for s in samples}) == 648
    samples[0].images[0].load()
