"""The conformance kit: built-ins pass; for every promise, a component that breaks it fails."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.answering import write_table
from support.arrow_files import picture, rows, write_arrow
from support.sound_components import (
    SoundDataset,
    SoundFusion,
    SoundHead,
    SoundImage,
    SoundJoint,
    SoundObjective,
    SoundPooler,
    SoundText,
    check,
)
from support.tasks import TASKS

from renaissance.builtin.datasets.coco import Coco
from renaissance.builtin.datasets.f30k import Flickr30k
from renaissance.builtin.datasets.gcc import GCC
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.datasets.refcoco import RefCOCOData, RefCOCOg, RefCOCOPlus
from renaissance.builtin.datasets.sbu import SBU
from renaissance.builtin.datasets.shapes import Shapes
from renaissance.builtin.datasets.vg import VisualGenome
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.objectives.itc import ITC
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.builtin.objectives.retrieval import Retrieval
from renaissance.plugins.kinds import KINDS
from renaissance.plugins.loading import load_plugins
from renaissance.testing import (
    check_dataset,
    check_encoder,
    check_fusion,
    check_head,
    check_objective,
    check_pooler,
)

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {**TINY, "hidden_dropout_prob": 0.1}


def builtin(kind: str) -> list[Any]:
    return [
        pytest.param(r.component, id=r.name)
        for r in load_plugins().registry
        if r.kind == kind and r.distribution == "renaissance"
    ]


@pytest.mark.parametrize("head", builtin("head"))
def test_builtin_heads(head: Any) -> None:
    check_head(head)


@pytest.mark.parametrize("pooler", builtin("pooler"))
def test_builtin_poolers(pooler: Any) -> None:
    check_pooler(pooler)


@pytest.mark.parametrize("fusion", [f for f in builtin("fusion") if f.id != "none"])
def test_builtin_fusions(fusion: Any) -> None:
    check_fusion(fusion, fusion.Options(hidden_size=16, num_layers=2, num_heads=2))


ENCODERS = {
    "hf-text": (HFTextEncoder, {"architecture": "bert", "config": TEXT}),
    "hf-image": (HFImageEncoder, {"architecture": "vit", "config": {**TINY, "patch_size": 16}}),
    "hf-joint": (HFJointEncoder, {"architecture": "vit", "config": {**TINY, "patch_size": 16}}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_builtin_encoders(name: str) -> None:
    encoder, options = ENCODERS[name]
    check_encoder(encoder, encoder.Options(**options))


# Each with what it is checked with: options, and further arguments.
OBJECTIVES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (MLM, {}, {}),
    (MLM, {"whole_word": True}, {}),
    (ITM, {}, {}),
    (ITM, {"negatives": "dataset", "replace": "either"}, {}),
    (ITC, {"projection_size": 8}, {"compares_samples": True}),
    (Retrieval, {"num_negatives": 2}, {}),
]


@pytest.mark.parametrize(("objective", "options", "arguments"), OBJECTIVES)
def test_builtin_objectives(
    objective: Any, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    check_objective(objective, objective.Options(**options), **arguments)


@pytest.mark.parametrize("task", TASKS)
def test_builtin_tasks(task: str, tmp_path: Path) -> None:
    case = TASKS[task]
    check_objective(case.component, samples=case.samples, root=case.root(tmp_path))


def write_captions(root: Path, *names: str) -> None:
    for name in names:
        write_arrow(root / name, rows(2, num_captions=2))


def write_boxes(root: Path, prefix: str) -> None:
    for split in ("train", "val"):
        columns = {
            "image": [picture(0), picture(1)],
            "sentences": [["a photo", "of it"], ["a photo of it"]],
            "bboxes": [[[0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 20.0, 30.0]], [[0.0, 0.0, 9.0, 9.0]]],
            "labels": [1, 0],
        }
        write_table(root / f"{prefix}_{split}.arrow", columns)


KARPATHY = ("train", "restval", "val")
DATASETS: list[tuple[Any, dict[str, Any], Callable[[Path], None]]] = [
    (Shapes, {"num_samples": 20}, lambda root: None),
    (ImageText, {"files": "*.arrow"}, lambda root: write_captions(root, "a.arrow", "b.arrow")),
    (ImageText, {"files": "a.arrow", "captions": "random"}, lambda r: write_captions(r, "a.arrow")),
    (
        Coco,
        {},
        lambda r: write_captions(r, *(f"coco_caption_karpathy_{n}.arrow" for n in KARPATHY)),
    ),
    (
        Flickr30k,
        {},
        lambda r: write_captions(r, *(f"f30k_caption_karpathy_{n}.arrow" for n in KARPATHY)),
    ),
    (VisualGenome, {"split": "train"}, lambda root: write_captions(root, "vg.arrow")),
    (SBU, {"split": "train"}, lambda root: write_captions(root, "sbu_0.arrow", "sbu_1.arrow")),
    (
        GCC,
        {},
        lambda r: write_captions(r, *(f"conceptual_caption_{n}_0.arrow" for n in ("train", "val"))),
    ),
    (RefCOCOData, {}, lambda root: write_boxes(root, "refcoco_unc")),
    (RefCOCOPlus, {}, lambda root: write_boxes(root, "refcoco+_unc")),
    (RefCOCOg, {}, lambda root: write_boxes(root, "refcocog_umd")),
]


@pytest.mark.parametrize(("dataset", "options", "write"), DATASETS)
def test_builtin_datasets(
    dataset: Any, options: dict[str, Any], write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    check_dataset(dataset, dataset.Options(**options), root=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_builtin_component_is_checked(kind: str) -> None:
    by_kind = {
        "encoder": [encoder for encoder, _ in ENCODERS.values()],
        "objective": [
            *(objective for objective, *_ in OBJECTIVES),
            *(task.component for task in TASKS.values()),
        ],
        "dataset": [dataset for dataset, *_ in DATASETS],
    }
    # Heads, poolers and fusions are all checked above. Some others have a check in a file of
    # their own.
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    unchecked = [
        registration.id
        for registration in (builtin(kind) if kind in by_kind else [])
        for component in registration.values
        if component not in by_kind[kind]
        and not re.search(rf"\bcheck_{kind}\(\s*{component.__name__}\b", tests)  # type: ignore[union-attr]
    ]
    assert unchecked == []


@pytest.mark.parametrize(
    "sound",
    [
        SoundHead,
        SoundText,
        SoundImage,
        SoundJoint,
        SoundFusion,
        SoundPooler,
        SoundDataset,
        SoundObjective,
    ],
)
def test_sound_components_pass(sound: type) -> None:
    check(sound)
