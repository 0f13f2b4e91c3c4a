"""The earlier Renaissance (github.com/bsu-slim/renaissance): checkpoints of two-tower models."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from safetensors.torch import save_file
from torch import Tensor

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.configs import override_config, read_config
from renaissance.builtin.encoders.huggingface.vilt import three_types
from renaissance.contracts.encoder import Encoder, EncoderContext
from renaissance.convert.heads import Heads, take
from renaissance.convert.lxmert_layers import convert_layers
from renaissance.convert.target import Target
from renaissance.convert.weights import WEIGHTS, Weights
from renaissance.errors import CheckpointError, quoted

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
TRANSFORMS = ("imagenet", "vit", "clip", "pixelbert")
# The settings that are needed, and their types.
NEEDED: Mapping[str, type] = {
    "text_encoder": str,
    "image_encoder": str,
    "num_cross_layer_heads": int,
    "max_text_len": int,
    "image_size": int,
}
SIZES: Mapping[str, type | tuple[type, ...]] = {
    "hidden_size": int,
    "num_layers": int,
    "num_heads": int,
    "mlp_ratio": int,
    "drop_rate": (int, float),
}


def convert_renaissance(weights: Weights) -> Target:
    """Return the two-tower run that a checkpoint of the earlier Renaissance is.

    Raises:
        CheckpointError: If it is none, or is a one-tower model, or lacks weights or settings.
    """
    tensors, settings = weights.tensors, weights.settings
    _check(weights)
    context = EncoderContext(
        image_size=settings["image_size"],
        max_text_length=settings["max_text_len"],
        vocab_size=int(settings.get("vocab_size", 1)),
    )
    towers = {table: _tower(table, weights, context) for table in TOWERS}
    layers, used = convert_layers(tensors, LAYERS)
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
                "num_layers": len({name.split(".")[3] for name in tensors if LAYERS in name}),
                "num_heads": settings["num_cross_layer_heads"],
                "mlp_ratio": len(wide) / hidden_size,
            },
            "pooler": {"type": "double"},
        },
        "data": {
            "image_size": settings["image_size"],
            "max_text_length": settings["max_text_len"],
            "tokenizer": settings.get("tokenizer") or settings["text_encoder"],
            "transform": {"type": _transform(settings)},
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
            f"{', '.join(missing)}; its one-tower checkpoints cannot be converted"
        )
    _check_settings(weights, NEEDED)


def _check_settings(weights: Weights, needed: Mapping[str, type | tuple[type, ...]]) -> None:
    faults = [
        f"{name} (got {quoted(weights.settings.get(name))})"
        for name, kind in needed.items()
        if not isinstance(weights.settings.get(name), kind)
    ]
    if faults:
        raise CheckpointError(
            f"{weights.source}: hyper_parameters.config lacks {', '.join(faults)}, which no tensor "
            "tells; take the checkpoint as Lightning wrote it"
        )


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
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        kept = {n.removeprefix(prefix): t.contiguous() for n, t in inside.items()}
        save_file(kept, Path(folder, WEIGHTS), {"format": "pt"})
        encoder: Encoder
        if table == "text_encoder":
            encoder = HFTextEncoder(HFTextEncoder.Options(checkpoint=folder), context)
        else:
            encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=folder), context)
    made: dict[str, Any] = {"type": "hf-text" if table == "text_encoder" else "hf-image"}
    made["checkpoint"] = name
    if is_own:
        made |= {"random_init": True, "config": overrides}
    tensors = {f"model.{table}.{n}": tensor for n, tensor in encoder.state_dict().items()}
    return _Tower(made, tensors, {n for n in inside if ".pooler." not in n})


def _sizes(table: str, weights: Weights) -> dict[str, Any]:
    _check_settings(weights, {f"{table}_{name}": kind for name, kind in SIZES.items()})
    sizes = {name: weights.settings[f"{table}_{name}"] for name in SIZES}
    return {
        "hidden_size": sizes["hidden_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "intermediate_size": sizes["hidden_size"] * sizes["mlp_ratio"],
        "hidden_dropout_prob": sizes["drop_rate"],
        "attention_probs_dropout_prob": sizes["drop_rate"],
    }


def _transform(settings: Mapping[str, Any]) -> str:
    keys = settings.get("val_transform_keys") or [TRANSFORMS[0]]
    name = str(keys[0]).removesuffix("_randaug")
    return name if name in TRANSFORMS else TRANSFORMS[0]
