"""How Hugging Face image models take an image, and where their output has its states."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

# What the first argument of an image model is called; the second name is BridgeTower's.
IMAGE_INPUTS = ("pixel_values", "image")
# What models that take patches need besides.
PATCH_INPUTS = ("pixel_attention_mask", "spatial_shapes")
# What an image model takes: pixels; pixels, for a list of the states after each layer; or patches.
ImageForm = Literal["pixels", "layers", "patches"]


def image_form(model: PreTrainedModel) -> ImageForm:
    """Return what an image model takes; SigLIP 2 takes patches, so that images keep their shape."""
    names = signature(model.forward).parameters
    if "spatial_shapes" in names:
        return "patches"
    return "layers" if "image" in names else "pixels"


def image_states(
    model: PreTrainedModel, pixel_values: Tensor, form: ImageForm, **options: bool
) -> Tensor:
    """Return a model's last hidden states, (images, tokens, hidden), or a feature map.

    Args:
        model: The model.
        pixel_values: (images, 3, height, width).
        form: What `image_form` returned for the model.
        options: Further arguments of the model.
    """
    states: Tensor
    if form == "patches":
        patches, shape = _patches(pixel_values, model.config.patch_size)
        output = model(patches, pixel_attention_mask=None, spatial_shapes=shape, **options)
        states = output.last_hidden_state
    elif form == "layers":
        states = model(pixel_values, **options)[-1]
    else:
        output = model(pixel_values=pixel_values, **options)
        # Of some families, such as HGNet-v2, the library has only a backbone, which returns the
        # feature maps of stages; the last is the deepest.
        maps = output.get("feature_maps")
        states = output.last_hidden_state if maps is None else maps[-1]
    return states


def token_states(states: Tensor) -> Tensor:
    """Return what `image_states` returned as (images, tokens, hidden), if it is a feature map."""
    # (images, hidden, height, width) -> (images, tokens, hidden)
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def _patches(pixel_values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return patches, (images, patches, size * size * 3), and one row with the grid's shape."""
    height, width = (side // size for side in pixel_values.shape[2:])
    # (images, channels, rows, size, columns, size), then channels last
    grid = pixel_values.reshape(*pixel_values.shape[:2], height, size, width, size)
    patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    # On the CPU, where the model reads it. All images have the same shape.
    return patches, torch.tensor([[height, width]], device="cpu")
