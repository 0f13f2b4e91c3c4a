"""Zero-shot classification by the similarity that `itc` learns."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.asserting import assert_refused
from support.command_line import renaissance
from support.labelled import WORDS, labelled_spec
from support.running import metrics, run_here
from torch import nn

from renaissance import Objective, Sample
from renaissance.builtin.objectives.zero_shot import ZeroShot
from renaissance.inference.loading import load
from renaissance.testing import ContractError, check_objective

TEMPLATES = ("{} two", "one {}")
OBJECTIVES = f"""type = "itc"
projection_size = 8

[[objectives]]
type = "zero-shot"
label = "kind"
classes = "classes.txt"
templates = {json.dumps(TEMPLATES)}
"""
CAPTIONS = [{"text": word, "level": 40 * index} for index, word in enumerate(WORDS)] * 3
LABELLED = [
    {"text": "two", "level": 40 * (index % 7), "kind": WORDS[index % 6]} for index in range(11)
]


def write(folder: Path, classes: str = "\n".join(WORDS), objectives: str = OBJECTIVES) -> Path:
    spec = labelled_spec(folder, objectives, CAPTIONS, LABELLED)
    (folder / "classes.txt").write_text(classes)
    return spec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero-shot")
    assert run_here(write(folder), folder, "train.max_steps=4", "evaluate.every_steps=4") == 0
    return folder / "tiny"


def by_hand(run: Path) -> dict[str, float]:
    """Accuracies by the vectors that the loaded model gives."""
    model = load(run, trust_plugins=True)
    classes = np.zeros((len(WORDS), 8))
    for template in TEMPLATES:
        classes += model.embed(texts=[template.replace("{}", name) for name in WORDS])
    levels: list[Any] = [row["level"] for row in LABELLED]
    images = model.embed(images=[Image.new("RGB", (32, 32), (n, n, n)) for n in levels])
    cosines = images @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T
    order = np.argsort(-cosines, axis=1)
    ranks = [
        order[index].tolist().index(WORDS.index(str(row["kind"])))
        for index, row in enumerate(LABELLED)
    ]
    kinds = np.array([str(row["kind"]) for row in LABELLED])
    is_right = np.array(ranks) == 0
    return {
        "accuracy": float(is_right.mean()),
        "accuracy_top_5": float((np.array(ranks) < 5).mean()),
        "mean_class_accuracy": float(
            np.mean([is_right[kinds == kind].mean() for kind in np.unique(kinds)])
        ),
    }


def test_the_accuracies_are_those_of_the_most_similar_class(run: Path) -> None:
    expected = by_hand(run)
    last = [line for line in metrics(run) if line["split"] == "validate"][-1]
    assert {name: last[f"zero-shot/{name}"] for name in expected} == pytest.approx(expected)
    assert "zero-shot/loss" not in last
    # Otherwise mistakes would not show.
    assert 0 < expected["accuracy_top_5"] < 1


def test_classes_are_kept_in_the_run_folder(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    kept = json.loads((moved / "classes.json").read_text())
    assert tuple(kept["zero-shot"]["names"]) == WORDS


def test_it_needs_no_training_data_and_is_not_warned_of(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any("zero-shot/loss" in line for line in metrics(run))
    result = renaissance("evaluate", str(run), "--trust-plugins", "--checkpoint", "last")
    assert result.code == 0, result.err
    assert "zero-shot/accuracy" in result.out
    assert "had no targets" not in result.out


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("one\ntwo\none\n", "classes.txt: line 3: 'one' is there twice (also line 1)"),
        ("one\n", "classes.txt: line 1: 'one' is the only class; expected the names of at least 2"),
        ("one\ntwo\n", "label 'kind' is 'zero', expected a class of classes.txt"),
    ],
)
def test_a_bad_class_file(tmp_path: Path, classes: str, expected: str) -> None:
    spec = write(tmp_path, classes)
    settings = [f"run.output_dir={tmp_path}", "train.max_steps=1", "evaluate.every_steps=1"]
    assert expected in renaissance("train", str(spec), *settings).err


def test_a_template_without_a_place_for_the_name(tmp_path: Path) -> None:
    spec = write(tmp_path, objectives=OBJECTIVES.replace("one {}", "one"))
    assert_refused(
        renaissance("check", str(spec)),
        "objectives[1].templates: got 'one', expected one {} in each template, for the name of",
    )


def test_it_keeps_the_contract_of_an_objective_that_only_evaluates(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    options = ZeroShot.Options(classes=Path("classes.txt"), label="kind")
    images = (Image.new("RGB", (32, 32)),)
    samples = [
        Sample(images=images, image_ids=(index,), labels={"kind": "cat"}) for index in range(4)
    ]
    check_objective(ZeroShot, options, samples=samples, root=tmp_path)

    class Learning(ZeroShot):
        """Has a parameter, and measures nothing."""

        evaluate_split = Objective.evaluate_split

        def __init__(self, options: Any, context: Any) -> None:
            super().__init__(options, context)
            self.scale = nn.Parameter(torch.ones(()))

    with pytest.raises(ContractError, match="which nothing trains: scale; remove them"):
        check_objective(Learning, options, samples=samples, root=tmp_path)


def test_without_embeddings_or_alone_it_is_refused(tmp_path: Path) -> None:
    alone = OBJECTIVES[OBJECTIVES.index('type = "zero-shot"') :]
    assert_refused(
        renaissance("check", str(write(tmp_path / "alone", objectives=alone))),
        "objectives: every objective only evaluates, so nothing would be trained; add one that",
    )
    other = OBJECTIVES.replace('"itc"\nprojection_size = 8', '"itm"\nnegatives = "dataset"')
    spec = write(tmp_path / "other", objectives=other)
    settings = [f"run.output_dir={tmp_path}", "train.max_steps=1", "evaluate.every_steps=1"]
    assert_refused(
        renaissance("train", str(spec), *settings),
        "objective 'zero-shot': compares images with the names of classes by vectors that no "
        "objective of this run learns; train with [[objectives]] of type = 'itc' too",
        code=1,
    )
