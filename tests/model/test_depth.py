"""Layers by structure, for the encoders of one library."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING, AutoModel

from renaissance.model.depth import UnknownDepthError, depths_of, layers_of

LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
STAGES = {"depths": [1, 2], "num_heads": [1, 1], "window_size": 2, "image_size": 8}


# Which config, the name of a layer's parameter by depth, what lies below and above the layers.
FAMILIES: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "bert": (LAYERS, "encoder.layer.{}.", "embeddings.LayerNorm.weight", None),
    "electra": (
        {**LAYERS, "embedding_size": 8},
        "encoder.layer.{}.",
        "embeddings_project.weight",
        None,
    ),
    "modernbert": (LAYERS, "layers.{}.", "embeddings.norm.weight", "final_norm.weight"),
    "vit": (LAYERS, "layers.{}.", "embeddings.cls_token", "layernorm.weight"),
    "clip_vision_model": (
        LAYERS,
        "encoder.layers.{}.",
        "pre_layrnorm.weight",
        "post_layernorm.weight",
    ),
    "dinov2": (LAYERS, "layers.{}.", "embeddings.mask_token", "layernorm.weight"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_depths_of_a_stack(family: str) -> None:
    config, layer, below, above = FAMILIES[family]
    model = AutoModel.from_config(CONFIG_MAPPING[family](**config))
    assert len(layers_of(model)) == 3
    depths, deepest = depths_of(model)
    assert deepest == 4
    named = {name: depths[id(parameter)] for name, parameter in model.named_parameters()}
    assert named[below] == 0
    assert above is None or named[above] == 4
    stack = layer.partition("{}")[0].removesuffix(".")
    for name, depth in named.items():
        tail = name.partition(f"{stack.rpartition('.')[2]}.")[2]
        if name.startswith(stack) or f".{stack.rpartition('.')[2]}." in name:
            assert depth == 1 + int(tail.partition(".")[0]), name


@pytest.mark.parametrize(
    ("family", "config", "between", "depth"),
    [
        # Swin halves the image after a stage, ConvNeXt before one.
        ("swin", {"embed_dim": 4, **STAGES}, "encoder.layers.0.downsample.norm.weight", 1),
        (
            "convnext",
            {"hidden_sizes": [4, 8], "depths": [1, 2], "num_stages": 2},
            "encoder.stages.1.downsampling_layer.0.weight",
            2,
        ),
    ],
)
def test_the_depths_of_stages(
    family: str, config: dict[str, Any], between: str, depth: int
) -> None:
    model = AutoModel.from_config(CONFIG_MAPPING[family](**config))
    depths, deepest = depths_of(model)
    assert (len(layers_of(model)), deepest) == (3, 4)
    assert depths[id(dict(model.named_parameters())[between])] == depth
    assert sorted(set(depths.values())) == [0, 1, 2, 3, 4]


def test_layers_that_share_their_parameters_have_no_depth() -> None:
    config = CONFIG_MAPPING["albert"](**LAYERS, embedding_size=8)
    with pytest.raises(UnknownDepthError, match="no lists of layers of one class"):
        depths_of(AutoModel.from_config(config))
