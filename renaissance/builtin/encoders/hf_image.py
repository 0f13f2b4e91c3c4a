"""A Hugging Face image model as an image encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from renaissance import Encoder, EncoderContext, Tokens, own_precision
from renaissance.builtin.encoders.huggingface.image_input import image_states, token_states
from renaissance.builtin.encoders.huggingface.positions import (
    antialias_of,
    resized_image_table,
)
from renaissance.builtin.encoders.huggingface.precision import FOLLOWING_FAMILIES, first_weight
from renaissance.builtin.encoders.huggingface.pretrained import (
    PretrainedOptions,
    enable_checkpointing,
    load_image_model,
    save_config,
)
from renaissance.builtin.encoders.huggingface.sizes import patch_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFImageEncoder(Encoder):
    """ViT, DeiT, BEiT, DINOv2, Swin, CLIP's image part, ResNet, ConvNeXt and the like.

    Feature maps become tokens, one per position, row by row.

    Args:
        options: Which model.
        context: What to know about the run.

    Raises:
        RenaissanceError: If the model cannot be loaded, or does not support the run's image size.

    Attributes:
        weights_source: Where the weights come from, in words.
    """

    modalities = frozenset({"image"})

    @attrs.frozen
    class Options(PretrainedOptions):
        """Options of hf-image."""

    @classmethod
    def checkpoint_of(cls, options: Options) -> str | None:
        """Return the checkpoint, which also determines tokenizer and normalization."""
        return options.checkpoint

    @classmethod
    def save_config(cls, options: Options, folder: Path) -> None:
        """Write the model's config.json, as it is before keys are overridden."""
        save_config("hf-image", options, folder)

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        loaded = load_image_model("hf-image", options, context)
        self.model = loaded.model
        self.hidden_size = loaded.hidden_size
        self.contrast = loaded.contrast
        self.image_size = context.image_size
        self.image_summary = loaded.image_summary
        self.image_form = loaded.image_form
        self.weights_source = options.weights_source
        self.follows_dtype = self.model.config.model_type in FOLLOWING_FAMILIES
        self._options = options

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode images; every token is real."""
        weight = first_weight(self.model)
        with own_precision(weight):
            states = image_states(self.model, pixel_values.to(weight.dtype), self.image_form)
        return Tokens(token_states(states))

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Interpolate a position table; None for any other tensor."""
        # SigLIP 2 keeps one table for images of all sizes.
        if not hasattr(self.model.config, "patch_size") or self.image_form == "patches":
            return None
        target = self.state_dict()[name]
        antialias = antialias_of("hf-image", self.model, self.image_size)
        return resized_image_table(name, tensor, target, patch_grid(self.model.config), antialias)

    def transformers_model(self) -> PreTrainedModel | None:
        """Return the wrapped model, if it takes pixels and returns states as most do."""
        return self.model if self.image_form == "pixels" else None

    def check_weights(self) -> None:
        """Check the checkpoint's weight files by their headers and sizes."""
        self._options.check_weights("hf-image")

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Recompute activations of layers in the backward pass."""
        enable_checkpointing(self.model, every_n_layers)
