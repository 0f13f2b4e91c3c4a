"""ViLT as a ViT with embeddings of words (Kim et al., "ViLT", ICML 2021).

Its layers, patches and positions of images are those of a ViT. Its text embeddings are BERT's, and
the embedding of the one segment that a text has is part of its positions here.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from renaissance import CheckpointError, EncoderContext, SpecError
from renaissance.builtin.encoders.huggingface.building import build_model, read_model
from renaissance.builtin.encoders.huggingface.configs import override_config
from renaissance.builtin.encoders.huggingface.pretrained import LoadedModel, PretrainedOptions
from renaissance.builtin.encoders.huggingface.sizes import (
    check_image_size,
    patch_grid,
    set_image_size,
)

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

FAMILY = "vilt"
# What the config of a ViT has from that of a ViLT.
SHARED_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
)
# Checkpoints with a head have the model's weights under this name.
KEY_MAPPING = {r"^vilt\.": ""}
# Rows of our token types: text, first image, second image.
NUM_TYPES = 3


@attrs.frozen
class Vilt:
    """A ViLT in parts.

    Attributes:
        vit: The layers and the embeddings of images.
        vocab_size: Rows of the table of words.
        layer_norm_eps: Of the norm of the text embeddings.
        text: Weights of the text embeddings by their names here; empty if they are random.
        token_types: For text, first image and second image, (3, hidden); None if random.
    """

    vit: LoadedModel
    vocab_size: int
    layer_norm_eps: float
    text: Mapping[str, Tensor] = {}
    token_types: Tensor | None = None


def load_vilt(
    where: str, options: PretrainedOptions, context: EncoderContext, config: PreTrainedConfig
) -> Vilt:
    """Load a ViLT for the run's sizes.

    Args:
        where: Name of the encoder, with which messages begin.
        options: The encoder's options.
        context: What to know about the run.
        config: That of the checkpoint or architecture.

    Raises:
        SpecError: If the run's texts or images do not fit.
        CheckpointError: If the checkpoint is missing, damaged or incomplete.
    """
    from transformers import ViTConfig, ViTModel

    if options.architecture is not None:
        config.vocab_size = max(config.vocab_size, context.vocab_size)
    config = override_config(where, config, options.config)
    _check_texts(where, config, context)
    check_image_size(where, config, context.image_size)
    vit_config = ViTConfig(**{key: getattr(config, key) for key in SHARED_KEYS})
    sized = deepcopy(vit_config)
    set_image_size(sized, context.image_size)
    vit = LoadedModel(build_model(where, sized, ViTModel), config.hidden_size)
    if options.has_random_weights or not context.load_weights:
        return Vilt(vit, config.vocab_size, config.layer_norm_eps)
    checkpoint = str(options.checkpoint)
    read, missing = read_model(where, checkpoint, vit_config, ViTModel, KEY_MAPPING)
    _load_vit(vit.model, read)
    tensors, missing_tensors = _read_vilt(where, checkpoint, config)
    _check_missing(where, {*missing, *missing_tensors})
    text = _text_weights(tensors, context.max_text_length)
    types = three_types(tensors["embeddings.token_type_embeddings.weight"])
    return Vilt(vit, config.vocab_size, config.layer_norm_eps, text, types)


def _check_texts(where: str, config: PreTrainedConfig, context: EncoderContext) -> None:
    faults = []
    if context.max_text_length > config.max_position_embeddings:
        faults.append(
            f"{where}: data.max_text_length is {context.max_text_length}, but this 'vilt' has "
            f"positions for {config.max_position_embeddings} tokens; set data.max_text_length to "
            f"{config.max_position_embeddings} or less"
        )
    if context.vocab_size > config.vocab_size:
        faults.append(
            f"{where}: the tokenizer has ids up to {context.vocab_size - 1}, but this 'vilt' has "
            f"embeddings for {config.vocab_size} tokens; set data.tokenizer to the model's own"
        )
    if faults:
        raise SpecError(*faults)


def _read_vilt(
    where: str, checkpoint: str, config: PreTrainedConfig
) -> tuple[dict[str, Tensor], frozenset[str]]:
    from transformers import ViltModel

    model, missing = read_model(where, checkpoint, config, ViltModel)
    # Our encoder is without the pooler, which stands around it.
    return model.state_dict(), frozenset(name for name in missing if "pooler" not in name)


def _check_missing(where: str, missing: set[str]) -> None:
    if missing:
        raise CheckpointError(
            f"{where}: checkpoint: {len(missing)} of the weights that 'vilt' needs are missing: "
            f"{', '.join(sorted(missing)[:5])}; download it again, or set random_init = true"
        )


def _load_vit(model: PreTrainedModel, read: PreTrainedModel) -> None:
    """Load a ViT's weights into one of another image size."""
    state = read.state_dict()
    for name, target in model.state_dict().items():
        if state[name].shape != target.shape:
            old, new = patch_grid(read.config), patch_grid(model.config)
            state[name] = _resized(state[name], old, new)
    model.load_state_dict(state)


def _resized(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate positions as ViLT does: (1, 1 + patches, hidden), class token first."""
    grid = table[:, 1:].transpose(1, 2).unflatten(2, old)  # type: ignore[no-untyped-call]
    patches = interpolate(grid, size=new, mode="bilinear", align_corners=True)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def _text_weights(tensors: Mapping[str, Tensor], num_positions: int) -> dict[str, Tensor]:
    prefix = "embeddings.text_embeddings."
    segment = tensors[f"{prefix}token_type_embeddings.weight"][0]
    positions = tensors[f"{prefix}position_embeddings.weight"][:num_positions]
    return {
        "word_embeddings.weight": tensors[f"{prefix}word_embeddings.weight"],
        "position_embeddings.weight": positions + segment,
        "norm.weight": tensors[f"{prefix}LayerNorm.weight"],
        "norm.bias": tensors[f"{prefix}LayerNorm.bias"],
    }


def three_types(types: Tensor) -> Tensor:
    """Return the rows of text and images; if there is no second image, it is like the first."""
    return torch.cat([types[:NUM_TYPES], types[-1:].expand(NUM_TYPES - len(types[:NUM_TYPES]), -1)])
