"""The conformance kit: built-ins pass; for every promise, a component that breaks it fails."""

from typing import Any

import pytest
from sound_components import (
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

from renaissance.builtin.datasets.shapes import Shapes
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.plugins import load_plugins
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


@pytest.mark.parametrize("fusion", builtin("fusion"))
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


def test_every_builtin_encoder_is_checked() -> None:
    assert sorted(ENCODERS) == sorted(param.id for param in builtin("encoder"))


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (MLM, {}),
        (MLM, {"whole_word": True}),
        (ITM, {}),
        (ITM, {"negatives": "dataset", "replace": "either"}),
    ],
)
def test_builtin_objectives(objective: Any, options: dict[str, Any]) -> None:
    check_objective(objective, objective.Options(**options))


def test_builtin_shapes() -> None:
    check_dataset(Shapes, Shapes.Options(num_samples=20))


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
