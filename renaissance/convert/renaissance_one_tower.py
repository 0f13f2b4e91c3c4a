"""The earlier Renaissance: checkpoints of one-tower models.

They are the layers of a text model between embeddings of their own. Where these are narrower than
the layers, both modalities get their types before they are projected; here, they get them after it.
"""

import json
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.huggingface.configs import override_config, read_config
from renaissance.builtin.encoders.huggingface.vilt import three_types
from renaissance.contracts.encoder import EncoderContext
from renaissance.convert.heads import Heads, take
from renaissance.convert.target import Target
from renaissance.convert.towers import SIZES, check_settings, sizes_of, transform_of
from renaissance.convert.weights import CONFIG, WEIGHTS, Weights
from renaissance.errors import CheckpointError

TEXT, IMAGE = "encoder.text_embeddings.", "encoder.image_embeddings."
LAYERS = "encoder.encoder."
WORDS, POSITIONS = f"{TEXT}word_embeddings.weight", f"{TEXT}position_embeddings.weight"
TYPES = "encoder.token_type_embeddings.weight"
PATCHES = f"{IMAGE}patch_embeddings.projection"
TEXT_PROJECTION = "encoder.text_embedding_projection"
IMAGE_PROJECTION = "encoder.image_embedding_projection"
POOLERS = {
    "encoder.pooler.dense": "model.pooler.text.dense",
    "encoder.text_pooler.dense": "model.pooler.text.dense",
    "encoder.image_pooler.dense": "model.pooler.image.dense",
}
DOUBLE = "encoder.text_pooler.dense.weight"
NEEDED: Mapping[str, type] = {"encoder": str, "patch_size": int}
# Text models whose embeddings are theirs, apart from types of segments.
FAMILIES = ("bert", "electra")


def is_one_tower(weights: Weights) -> bool:
    """Return whether a checkpoint is of a one-tower model."""
    return WORDS in weights.tensors


def convert_one_tower(weights: Weights) -> Target:
    """Return the one-tower run that a checkpoint of the earlier Renaissance is.

    Raises:
        CheckpointError: If it lacks weights or settings, or its encoder is of another family.
    """
    tensors, settings = weights.tensors, weights.settings
    needed = (POSITIONS, TYPES, f"{PATCHES}.weight", f"{IMAGE}position_embeddings")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{weights.source}: the one-tower checkpoint lacks {', '.join(missing)}; take it as "
            "Lightning wrote it"
        )
    check_settings(weights, NEEDED)
    overrides = _overrides(weights)
    config = override_config(
        "encoder", read_config("encoder", settings["encoder"], None), overrides
    )
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"{weights.source}: its encoder is a {config.model_type!r}, whose layers it ran "
            "without the norms or embeddings that they have here; expected one of "
            f"{', '.join(FAMILIES)}"
        )
    image_size = _grid(tensors) * settings["patch_size"]
    length = len(tensors[POSITIONS])
    context = EncoderContext(image_size, length, config.vocab_size)
    encoder, used = _encoder(config, tensors, settings["patch_size"], context)
    taken = {f"model.encoder.{name}": tensor for name, tensor in encoder.items()}
    taken["model.token_type_embeddings.weight"] = three_types(_types(tensors))
    for theirs, ours in POOLERS.items():
        taken |= take(tensors, theirs, ours)
        used |= {name for name in tensors if name.startswith(f"{theirs}.")}
    heads = Heads(tensors, {})
    rest = {n: t for n, t in tensors.items() if n not in {*used, *heads.names}}
    tables = {
        "model": {
            "type": "one-tower",
            "encoder": {
                "type": "hf-joint",
                "checkpoint": settings["encoder"],
                "random_init": True,
                "config": overrides,
                "patch_size": settings["patch_size"],
                "image_norm": False,
            },
            "pooler": {
                "type": "double" if "encoder.text_pooler.dense.weight" in tensors else "single"
            },
        },
        "data": {
            "image_size": image_size,
            "max_text_length": length,
            # It reads texts with this tokenizer, whatever the setting of that name is.
            "tokenizer": settings.get("text_encoder") or settings["encoder"],
            "transform": {"type": transform_of(settings)},
            **heads.datasets(),
        },
        "objectives": heads.tables() or [{"type": "itm"}],
    }
    return Target(tables, {**taken, **heads.tensors}, rest, heads.answers)


def _overrides(weights: Weights) -> dict[str, Any]:
    """Return what differs from the config that the checkpoint names."""
    tensors, settings = weights.tensors, weights.settings
    sizes: dict[str, Any] = {}
    if settings.get("random_init_encoder") and settings.get("encoder_manual_configuration"):
        check_settings(weights, SIZES)
        sizes = sizes_of(settings)
    return {
        **sizes,
        "vocab_size": len(tensors[WORDS]),
        "max_position_embeddings": len(tensors[POSITIONS]),
    }


def _grid(tensors: Mapping[str, Tensor]) -> int:
    """Return the side of an image in patches; one position is that of the class token."""
    return isqrt(tensors[f"{IMAGE}position_embeddings"].shape[1] - 1)


def _encoder(
    config: PreTrainedConfig,
    tensors: Mapping[str, Tensor],
    patch_size: int,
    context: EncoderContext,
) -> tuple[dict[str, Tensor], set[str]]:
    """Return the encoder's tensors, and the names of those that they are made of.

    It is loaded as from a folder of transformers, which knows its old names.
    """
    names = {WORDS: "embeddings.word_embeddings.weight"}
    names |= {n: f"embeddings.{n.removeprefix(TEXT)}" for n in tensors if n.startswith(TEXT)}
    names |= {n: f"encoder.{n.removeprefix(LAYERS)}" for n in tensors if n.startswith(LAYERS)}
    names |= {
        n: n.replace(TEXT_PROJECTION, "embeddings_project")
        for n in tensors
        if n.startswith(TEXT_PROJECTION)
    }
    width = tensors[WORDS].shape[1]
    kept = {ours: tensors[theirs].contiguous() for theirs, ours in names.items()}
    # Their texts have no segments.
    segments = torch.zeros(config.type_vocab_size, width)
    kept["embeddings.token_type_embeddings.weight"] = segments
    with TemporaryDirectory() as folder:
        save_file(kept, Path(folder, WEIGHTS), {"format": "pt"})
        Path(folder, CONFIG).write_text(json.dumps(config.to_dict()))
        options = HFJointEncoder.Options(checkpoint=folder, patch_size=patch_size, image_norm=False)
        state = HFJointEncoder(options, context).state_dict()
    used = {n for n in tensors if n in names or n.startswith((IMAGE, IMAGE_PROJECTION))}
    return {**state, **_image_embeddings(tensors)}, {*used, TYPES}


def _image_embeddings(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the embeddings of images, projected to the width of the layers."""
    weight, bias = tensors[f"{PATCHES}.weight"], tensors[f"{PATCHES}.bias"]
    first, positions = tensors[f"{IMAGE}cls_token"], tensors[f"{IMAGE}position_embeddings"]
    projection = tensors.get(f"{IMAGE_PROJECTION}.weight")
    if projection is not None:
        weight = torch.einsum("he,ecxy->hcxy", projection, weight)
        bias, first = projection @ bias, first @ projection.T
        positions = positions @ projection.T + tensors[f"{IMAGE_PROJECTION}.bias"]
    return {
        "image_embeddings.projection.weight": weight,
        "image_embeddings.projection.bias": bias,
        "image_embeddings.class_token": first,
        "image_embeddings.position_embeddings": positions,
    }


def _types(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the types of text and images, projected to the width of the layers."""
    types = tensors[TYPES]
    text = tensors.get(f"{TEXT_PROJECTION}.weight")
    image = tensors.get(f"{IMAGE_PROJECTION}.weight")
    if text is None or image is None:
        return types
    return torch.cat([types[:1] @ text.T, types[1:] @ image.T])
