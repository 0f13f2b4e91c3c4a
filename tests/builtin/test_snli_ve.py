import os
from pathlib import Path

import pytest
from support.answering import all_samples, dataset, png, write_table
from support.preparing import prepare

from renaissance import DataError
from renaissance.builtin.datasets.snli_ve import SNLIVEData
from renaissance.testing import check_dataset

SENTENCES = [[["a premise", "two elephants"], ["", "a photo"]], [["", "one umbrella"]]]


def write(root: Path, labels: object, sentences: object = SENTENCES, split: str = "train") -> None:
    write_table(
        root / f"snli_{split}.arrow",
        {"image": [png(1), png(2)], "sentences": sentences, "labels": labels},
    )


# As preparation writes them, and as pandas may.
@pytest.mark.parametrize("labels", [[[2, 0], [1]], [[2.0, 0.0], [1.0]]])
def test_one_sample_per_hypothesis(tmp_path: Path, labels: object) -> None:
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
    with pytest.raises(DataError, match="column 'labels' has no value for text 1"):
        dataset(SNLIVEData, tmp_path).sample(1, None)  # type: ignore[arg-type]


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real photos",
)
def test_real_files(tmp_path: Path) -> None:
    source = Path(os.environ["RENAISSANCE_SHARED_DATA"], "snli_ve")
    prepare("snli-ve", source, tmp_path)
    train, dev = dataset(SNLIVEData, tmp_path), dataset(SNLIVEData, tmp_path, training=False)
    assert (len(train), len(dev)) == (2569, 648)
    samples = all_samples(dev)
    assert {s.labels["entailment"] for s in samples} == {0, 1, 2}
    assert len({s.labels["identifier"] for s in samples}) == 648
    samples[0].images[0].load()
