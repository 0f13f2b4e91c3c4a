"""The earlier Renaissance (github.com/bsu-slim/renaissance): checkpoints of its models."""

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from renaissance.builtin.encoders.huggingface.configs import override_config, read_config
from renaissance.builtin.encoders.huggingface.vilt import three_types
from renaissance.contracts.encoder import EncoderContext
from renaissance.convert.fusion_layers import LXMERT, convert_layers, count_layers
from renaissance.convert.heads import Heads, take
from renaissance.convert.renaissance_one_tower import convert_one_tower, is_one_tower
from renaissance.convert.target import Target
from renaissance.convert.towers import (
    SIZES,
    check_settings,
    load_tower,
    sizes_of,
    transform_of,
)
from renaissance.convert.weights import Weights
from renaissance.errors import CheckpointError

LAYERS = "encoder.fusion_encoder.cross_modal_layers."
TYPES = "encoder.token_type_embeddings.weight"
PARTS = {
    "encoder.cross_modal_text_transform": "model.text_projection",
    "encoder.cross_modal_image_transform": "model.image_projection",
    "encoder.fusion_encoder.cross_modal_text_pooler.dense": "model.pooler.text.dense",
    "encoder.fusion_encoder.cross_modal_image_pooler.dense": "model.pooler.image.dense",
}
TOWERS = {"text_encoder": "encoder.text_transformer.", "image_encoder": "encoder.image_encoder."}
RANDOM = {"text_encoder": "random_init_text_encoder", "image_encoder": "random_init_vision_encoder"}
# The settings that are needed, and their types.
NEEDED: Mapping[str, type] = {
    "text_encoder": str,
    "image_encoder": str,
    "num_cross_layer_heads": int,
    "max_text_len": int,
    "image_size": int,
}


def convert_renaissance(weights: Weights) -> Target:
    """Return the run that a checkpoint of the earlier Renaissance is.

    Raises:
        CheckpointError: If it is none, or lacks weights or settings.
    """
    return convert_one_tower(weights) if is_one_tower(weights) else _two_tower(weights)


def _two_tower(weights: Weights) -> Target:
    tensors, settings = weights.tensors, weights.settings
    _check(weights)
    context = EncoderContext(
        image_size=settings["image_size"],
        max_text_length=settings["max_text_len"],
        vocab_size=int(settings.get("vocab_size", 1)),
    )
    towers = {table: _tower(table, weights, context) for table in TOWERS}
    layers, used = convert_layers(tensors, LAYERS, LXMERT)
    taken = {"model.token_type_embeddings.weight": three_types(tensors[TYPES]), **layers}
    for theirs, ours in PARTS.items():
        taken |= take(tensors, theirs, ours)
        used |= {name for name in tensors if name.startswith(f"{theirs}.")}
    for tower in towers.values():
        taken |= tower.tensors
        used |= tower.used
    heads = Heads(tensors, {})
    rest = {n: t for n, t in tensors.items() if n not in {TYPES, *used, *heads.names}}
    hidden_size = tensors[TYPES].shape[1]
    wide = tensors[f"{LAYERS}0.lang_inter.dense.weight"]
    tables = {
        "model": {
            "type": "two-tower",
            **{table: tower.table for table, tower in towers.items()},
            "fusion": {
                "type": "lxmert",
                "hidden_size": hidden_size,
                "num_layers": count_layers(tensors, LAYERS),
                "num_heads": settings["num_cross_layer_heads"],
                "mlp_ratio": len(wide) / hidden_size,
            },
            "pooler": {"type": "double"},
        },
        "data": {
            "image_size": settings["image_size"],
            "max_text_length": settings["max_text_len"],
            "tokenizer": settings.get("tokenizer") or settings["text_encoder"],
            "transform": {"type": transform_of(settings)},
            **heads.datasets(),
        },
        "objectives": heads.tables() or [{"type": "itm"}],
    }
    return Target(tables, {**taken, **heads.tensors}, rest, heads.answers)


def _check(weights: Weights) -> None:
    names = (TYPES, f"{LAYERS}0.lang_inter.dense.weight")
    missing = [name for name in names if name not in weights.tensors]
    if missing:
        raise CheckpointError(
            f"{weights.source}: no two-tower checkpoint of the earlier Renaissance: it has no "
            f"{', '.join(missing)}, nor has it the embeddings of a one-tower one; take it as "
            "Lightning wrote it"
        )
    check_settings(weights, NEEDED)


@attrs.frozen
class _Tower:
    table: dict[str, Any]
    tensors: Mapping[str, Tensor]
    used: set[str]


def _tower(table: str, weights: Weights, context: EncoderContext) -> _Tower:
    """Load a tower as it is loaded from a folder of transformers, which knows its old names."""
    settings, prefix = weights.settings, TOWERS[table]
    is_own = bool(settings.get(RANDOM[table]) and settings.get(f"{table}_manual_configuration"))
    overrides = _sizes(table, weights) if is_own else {}
    name = str(settings[table])
    config = override_config(table, read_config(table, name, None), overrides)
    inside = {n: t for n, t in weights.tensors.items() if n.startswith(prefix)}
    kept = {n.removeprefix(prefix): tensor for n, tensor in inside.items()}
    tensors = load_tower(table, config, kept, context)
    made: dict[str, Any] = {"type": "hf-text" if table == "text_encoder" else "hf-image"}
    made["checkpoint"] = name
    if is_own:
        made |= {"random_init": True, "config": overrides}
    return _Tower(made, tensors, {n for n in inside if ".pooler." not in n})


def _sizes(table: str, weights: Weights) -> dict[str, Any]:
    check_settings(weights, {f"{table}_{name}": kind for name, kind in SIZES.items()})
    return sizes_of({name: weights.settings[f"{table}_{name}"] for name in SIZES})
