"""Towers and settings of checkpoints that PyTorch Lightning wrote."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.contracts.encoder import Encoder, EncoderContext
from renaissance.convert.weights import WEIGHTS, Weights
from renaissance.errors import CheckpointError, quoted

# Settings of dimensions, where a model of the earlier Renaissance has its own.
SIZES: Mapping[str, type | tuple[type, ...]] = {
    "hidden_size": int,
    "num_layers": int,
    "num_heads": int,
    "mlp_ratio": int,
    "drop_rate": (int, float),
}
TRANSFORMS = ("imagenet", "vit", "clip", "pixelbert")


def load_tower(
    table: str, config: PreTrainedConfig, tensors: Mapping[str, Tensor], context: EncoderContext
) -> dict[str, Tensor]:
    """Return a tower's tensors by our names; transformers, which loads it, knows its old ones.

    Args:
        table: text_encoder or image_encoder.
        config: Its config.
        tensors: Its tensors, by their names in it.
        context: What to know about the run.
    """
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(kept, Path(folder, WEIGHTS), {"format": "pt"})
        encoder: Encoder
        if table == "text_encoder":
            encoder = HFTextEncoder(HFTextEncoder.Options(checkpoint=folder), context)
        else:
            encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=folder), context)
    return {f"model.{table}.{name}": tensor for name, tensor in encoder.state_dict().items()}


def check_settings(weights: Weights, needed: Mapping[str, type | tuple[type, ...]]) -> None:
    """Check that a checkpoint has settings of the right types.

    Raises:
        CheckpointError: If it has not.
    """
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


def transform_of(settings: Mapping[str, Any]) -> str:
    """Return our name of the transform of images."""
    keys = settings.get("val_transform_keys") or [TRANSFORMS[0]]
    name = str(keys[0]).removesuffix("_randaug")
    return name if name in TRANSFORMS else TRANSFORMS[0]


def sizes_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a config of transformers that settings of dimensions stand for."""
    return {
        "hidden_size": settings["hidden_size"],
        "num_hidden_layers": settings["num_layers"],
        "num_attention_heads": settings["num_heads"],
        "intermediate_size": settings["hidden_size"] * settings["mlp_ratio"],
        "hidden_dropout_prob": settings["drop_rate"],
        "attention_probs_dropout_prob": settings["drop_rate"],
    }
