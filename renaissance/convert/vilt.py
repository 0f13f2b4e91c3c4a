"""ViLT: a checkpoint of its authors' code or of transformers."""

import json
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import ViltConfig

from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.huggingface.vilt import three_types
from renaissance.contracts.encoder import EncoderContext
from renaissance.convert.heads import Heads, take
from renaissance.convert.target import Target
from renaissance.convert.weights import CONFIG, WEIGHTS, Weights
from renaissance.errors import CheckpointError

HEAD_SIZE = 64
WORDS = "embeddings.text_embeddings.word_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
POSITIONS = "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection.weight"
# The beginnings of the authors' names, and those of transformers.
AUTHORS = {
    "text_embeddings.": "embeddings.text_embeddings.",
    "token_type_embeddings.": "embeddings.token_type_embeddings.",
    "transformer.cls_token": "embeddings.cls_token",
    "transformer.pos_embed": POSITIONS,
    "transformer.patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "transformer.norm.": "layernorm.",
}
AUTHORS_LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
QUERY_KEY_VALUE = "attn.qkv"
# The keys of ViltConfig that the run spec sets elsewhere.
ELSEWHERE = {"image_size", "tie_word_embeddings"}


def convert_vilt(weights: Weights) -> Target:
    """Return the one-tower run that a ViLT is.

    Raises:
        CheckpointError: If it is no ViLT, or lacks weights.
    """
    tensors = _named_as_in_transformers(weights.tensors)
    missing = [name for name in (WORDS, TYPES, POSITIONS, PATCHES) if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{weights.source}: no ViLT: it has no {', '.join(missing)}; expected a checkpoint of "
            "the authors' code or of transformers' ViltModel"
        )
    config = _config(weights, tensors)
    encoder = _encoder(config, tensors)
    taken = {f"model.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    taken["model.token_type_embeddings.weight"] = three_types(tensors[TYPES])
    heads = Heads(tensors, config.id2label)
    pooler = take(tensors, "pooler.dense", "model.pooler.text.dense")
    inside = ("embeddings.", "encoder.layer.", "layernorm.", "pooler.")
    rest = {n: t for n, t in tensors.items() if not n.startswith(inside) and n not in heads.names}
    tables = {
        "model": {
            "type": "one-tower",
            "encoder": {
                "type": "hf-joint",
                "architecture": "vilt",
                "config": _settings(config),
            },
            "pooler": {"type": "single"},
        },
        "data": {
            "image_size": config.image_size,
            "max_text_length": config.max_position_embeddings,
            "transform": {"type": "pixelbert"},
            **heads.datasets(),
        },
        "objectives": heads.tables() or [{"type": "itm"}],
    }
    return Target(tables, {**taken, **pooler, **heads.tensors}, rest, heads.answers)


def _named_as_in_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("vilt.")
        if name.endswith(("position_ids", "token_type_ids")):
            continue
        if name.startswith("transformer.blocks."):
            named |= _layer(name.removeprefix("transformer.blocks."), tensor)
            continue
        for old, new in AUTHORS.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        named[name] = tensor
    return named


def _layer(name: str, tensor: Tensor) -> dict[str, Tensor]:
    index, _, inner = name.partition(".")
    module, _, kind = inner.rpartition(".")
    prefix = f"encoder.layer.{index}"
    if module == QUERY_KEY_VALUE:
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{prefix}.attention.attention.{part}.{kind}": t for part, t in parts}
    return {f"{prefix}.{AUTHORS_LAYER.get(module, module)}.{kind}": tensor}


def _config(weights: Weights, tensors: Mapping[str, Tensor]) -> ViltConfig:
    """Return the config in the folder, or what shapes and settings tell."""
    if weights.folder is not None:
        try:
            return ViltConfig.from_dict(dict(weights.settings))
        # The library rejects values with errors of many classes.
        except Exception as error:
            raise CheckpointError(
                f"{weights.folder / CONFIG}: no config of a ViLT: {error}"
            ) from error
    vocab_size, hidden_size = tensors[WORDS].shape
    patch_size = tensors[PATCHES].shape[2]
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}
    return ViltConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=int(weights.settings.get("num_heads", hidden_size // HEAD_SIZE)),
        intermediate_size=len(tensors["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(
            tensors["embeddings.text_embeddings.position_embeddings.weight"]
        ),
        modality_type_vocab_size=len(tensors[TYPES]),
        image_size=isqrt(tensors[POSITIONS].shape[1] - 1) * patch_size,
        patch_size=patch_size,
    )


def _encoder(config: ViltConfig, tensors: Mapping[str, Tensor]) -> HFJointEncoder:
    """Load the encoder as it is loaded from a folder of transformers."""
    names = ("embeddings.", "encoder.layer.", "layernorm.", "pooler.")
    with TemporaryDirectory() as folder:
        kept = {n: t.contiguous() for n, t in tensors.items() if n.startswith(names)}
        save_file(kept, Path(folder, WEIGHTS), {"format": "pt"})
        Path(folder, CONFIG).write_text(json.dumps(_plain(config)))
        context = EncoderContext(
            image_size=config.image_size,
            max_text_length=config.max_position_embeddings,
            vocab_size=config.vocab_size,
        )
        return HFJointEncoder(HFJointEncoder.Options(checkpoint=folder), context)


def _settings(config: ViltConfig) -> dict[str, Any]:
    """Return the keys that differ from the default."""
    keys = ViltConfig.__annotations__.keys() - ELSEWHERE
    return {k: v for k, v in config.to_diff_dict().items() if k in keys and v is not None}


def _plain(config: ViltConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return content
