"""METER (Dou et al., 2022): checkpoints with an image encoder of CLIP.

Its image encoder is CLIP's without the last layer, and all its tokens are normalized at the end.
That is BridgeTower's image encoder, which descends from it.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor
from transformers.models.bridgetower import BridgeTowerVisionConfig

from renaissance.builtin.encoders.huggingface.configs import read_config
from renaissance.builtin.encoders.huggingface.vilt import three_types
from renaissance.contracts.encoder import EncoderContext
from renaissance.convert.fusion_layers import METER, convert_layers, count_layers
from renaissance.convert.heads import Heads, take
from renaissance.convert.target import Target
from renaissance.convert.towers import check_settings, load_tower, transform_of
from renaissance.convert.weights import Weights
from renaissance.errors import CheckpointError

TYPES = "token_type_embeddings.weight"
TEXT, IMAGE = "text_transformer.", "vit_model.visual."
TEXT_LAYERS, IMAGE_LAYERS = "cross_modal_text_layers.", "cross_modal_image_layers."
CONV, POSITIONS = f"{IMAGE}conv1.weight", f"{IMAGE}positional_embedding"
INTERMEDIATE = f"{TEXT_LAYERS}0.intermediate.dense.weight"
PARTS = {
    "cross_modal_text_transform": "model.text_projection",
    "cross_modal_image_transform": "model.image_projection",
    "cross_modal_text_pooler.dense": "model.pooler.text.dense",
    "cross_modal_image_pooler.dense": "model.pooler.image.dense",
}
EMBEDDINGS = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
}
NEEDED: Mapping[str, type] = {"tokenizer": str, "num_heads": int, "max_text_len": int}


def convert_meter(weights: Weights) -> Target:
    """Return the two-tower run that a METER is.

    Raises:
        CheckpointError: If it is none, or lacks weights or settings.
    """
    tensors, settings = weights.tensors, weights.settings
    missing = [n for n in (TYPES, INTERMEDIATE, CONV, POSITIONS) if n not in tensors]
    if missing:
        raise CheckpointError(
            f"{weights.source}: no METER with an image encoder of CLIP: it has no "
            f"{', '.join(missing)}; those with a Swin cannot be converted"
        )
    check_settings(weights, NEEDED)
    config = _image_config(tensors)
    text_config = read_config("text_encoder", settings["tokenizer"], None)
    context = EncoderContext(config.image_size, settings["max_text_len"], text_config.vocab_size)
    text = {n.removeprefix(TEXT): t for n, t in tensors.items() if n.startswith(TEXT)}
    taken = {
        **load_tower("text_encoder", text_config, text, context),
        **load_tower("image_encoder", config, _image_tensors(tensors), context),
        "model.token_type_embeddings.weight": three_types(tensors[TYPES]),
    }
    used = {n for n in tensors if n.startswith((TEXT, IMAGE)) and ".pooler." not in n}
    for prefix, stream in ((TEXT_LAYERS, "text_stream"), (IMAGE_LAYERS, "image_stream")):
        layers, names = convert_layers(tensors, prefix, METER, stream)
        taken |= layers
        used |= names
    for theirs, ours in PARTS.items():
        taken |= take(tensors, theirs, ours)
        used |= {name for name in tensors if name.startswith(f"{theirs}.")}
    heads = Heads(tensors, {})
    rest = {n: t for n, t in tensors.items() if n not in {TYPES, *used, *heads.names}}
    tables = _tables(weights, config, heads)
    return Target(tables, {**taken, **heads.tensors}, rest, heads.answers)


def _tables(weights: Weights, config: BridgeTowerVisionConfig, heads: Heads) -> dict[str, Any]:
    tensors, settings = weights.tensors, weights.settings
    hidden_size = tensors[TYPES].shape[1]
    sizes = {k: getattr(config, k) for k in ("hidden_size", "num_hidden_layers", "patch_size")}
    return {
        "model": {
            "type": "two-tower",
            "text_encoder": {"type": "hf-text", "checkpoint": settings["tokenizer"]},
            "image_encoder": {
                "type": "hf-image",
                "architecture": "bridgetower_vision_model",
                "config": sizes,
            },
            "fusion": {
                "type": "co-attention",
                "hidden_size": hidden_size,
                "num_layers": count_layers(tensors, TEXT_LAYERS),
                "num_heads": settings["num_heads"],
                "mlp_ratio": len(tensors[INTERMEDIATE]) / hidden_size,
            },
            "pooler": {"type": "double"},
        },
        "data": {
            "image_size": config.image_size,
            "max_text_length": settings["max_text_len"],
            "tokenizer": settings["tokenizer"],
            "transform": {"type": transform_of(settings)},
            **heads.datasets(),
        },
        "objectives": heads.tables() or [{"type": "itm"}],
    }


def _image_config(tensors: Mapping[str, Tensor]) -> BridgeTowerVisionConfig:
    hidden_size, _, patch_size, _ = tensors[CONV].shape
    return BridgeTowerVisionConfig(
        hidden_size=hidden_size,
        patch_size=patch_size,
        num_hidden_layers=count_layers(tensors, f"{IMAGE}transformer.resblocks."),
        image_size=isqrt(len(tensors[POSITIONS]) - 1) * patch_size,
    )


def _image_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inside = {n.removeprefix(IMAGE): t for n, t in tensors.items() if n.startswith(IMAGE)}
    return {f"visual.{EMBEDDINGS.get(name, name)}": tensor for name, tensor in inside.items()}
