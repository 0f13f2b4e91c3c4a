"""Rotary positions (Su et al., "RoFormer", 2021) in a stack that runs over both modalities.

In a text model, image tokens go on where the text ends, as in LLaVA (Liu et al., NeurIPS 2023). In
an image model, patches rotate by its own rule in two dimensions, and texts do not rotate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from renaissance import Tokens
from renaissance.builtin.encoders.huggingface.calls import Calls
from renaissance.builtin.encoders.huggingface.image_input import IMAGE_INPUTS

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

# What layers call the cosines and sines of the angles.
ANGLES = "position_embeddings"
POSITIONS = "position_ids"

Angles = tuple[Tensor, Tensor]


class Rotary(nn.Module):
    """What the layers of a stack rotate queries and keys by.

    Args:
        rotation: The model's module, which turns positions or a picture into cosines and sines.
        kinds: Its further arguments, one entry for each kind of layer.
        kind_of: Index of the kind of each layer.
        image_shape: Height and width of the pictures of an image model, pixels; None for a text
            model.
        num_image_tokens: Of an image model. A sequence of fewer tokens is text alone.
    """

    def __init__(
        self,
        rotation: nn.Module,
        kinds: Sequence[Mapping[str, object]],
        kind_of: Sequence[int],
        image_shape: tuple[int, int] | None,
        num_image_tokens: int,
    ) -> None:
        super().__init__()
        self.rotation = rotation
        self.kinds = kinds
        self.kind_of = kind_of
        self.image_shape = image_shape
        self.num_image_tokens = num_image_tokens

    @classmethod
    def take_from(
        cls, model: PreTrainedModel, layers: nn.ModuleList, calls: Calls
    ) -> Rotary | None:
        """Take the module out of a model; return None if its layers are given no angles.

        It is the module that returned what the layers were given.

        Args:
            model: The model.
            layers: Its layers.
            calls: The calls of all modules in one run of the model.
        """
        given = [calls.of(layer)[0].arguments.get(ANGLES) for layer in layers]
        found = _source(model, given, calls)
        if found is None:
            return None
        name, module = found
        made = calls.of(module)
        pictures = _pictures(made[0].arguments)
        takes_positions = POSITIONS in signature(module.forward).parameters
        # Image models that derive positions from pictures elsewhere rotate in ways of their own.
        reads_pictures = bool(_pictures(calls.of(model)[0].arguments))
        if not pictures and (reads_pictures or not takes_positions):
            return None
        kinds = [
            {key: v for key, v in call.arguments.items() if not isinstance(v, Tensor)}
            for call in made
        ]
        outputs = [id(call.output) for call in made]
        kind_of = [outputs.index(id(angles)) for angles in given]
        model.set_submodule(name, Unused())
        shape = (pictures[0].shape[2], pictures[0].shape[3]) if pictures else None
        num_tokens = calls.of(layers[0])[0].states.shape[1]
        return cls(module, kinds, kind_of, shape, num_tokens if pictures else 0)

    def forward(self, tokens: Tokens) -> list[Angles]:
        """Return the angles of each kind of layer: cosines and sines, (..., tokens, head_size)."""
        states = tokens.hidden_states
        if self.image_shape is not None:
            # Only its shape is read.
            picture = states.new_empty(1, 0, *self.image_shape)
            cosines, sines = self.rotation(picture)
            is_text = states.shape[1] < self.num_image_tokens
            # Layers rotate the last tokens, as many as there are angles.
            return [(cosines[:0], sines[:0]) if is_text else (cosines, sines)]
        if tokens.has_mask:
            # Padding between a text and its image does not count.
            positions = tokens.attention_mask.long().cumsum(1) - 1
        else:
            positions = torch.arange(states.shape[1], device=states.device)[None]
        return [self.rotation(states, **{POSITIONS: positions}, **kind) for kind in self.kinds]


def _source(
    model: PreTrainedModel, given: Sequence[object], calls: Calls
) -> tuple[str, nn.Module] | None:
    """Return the module that returned what all layers were given, with its name."""
    if None in given:
        return None
    for name, module in model.named_modules():
        outputs = [id(call.output) for call in calls.of(module)]
        if name and all(id(angles) in outputs for angles in given):
            return name, module
    return None


def _pictures(arguments: Mapping[str, Tensor]) -> list[Tensor]:
    return [arguments[key] for key in IMAGE_INPUTS if key in arguments]


class Unused(nn.Module):
    """Stands where a module was taken out of a model whose layers are gone, too."""

    def forward(self, *arguments: object, **keywords: object) -> None:
        """Return nothing, for layers that are not there."""


class Window:
    """Local attention: in some layers, text tokens attend only to near text tokens.

    Patches of an image have no such order. So in all layers, image tokens attend to all tokens,
    and all tokens to them.

    Args:
        size: How far apart two text tokens may be.
        is_local: Whether a layer is one of these.
        num_image_tokens: Image tokens come last; a sequence of fewer tokens is text alone.
    """

    def __init__(self, size: int, is_local: Sequence[bool], num_image_tokens: int) -> None:
        self.size = size
        self.is_local = is_local
        self.num_image_tokens = num_image_tokens

    def bias(self, tokens: Tokens, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to scores in local layers, (rows, 1, tokens, tokens).

        None if no text is longer than the window.
        """
        states = tokens.hidden_states
        num_tokens = states.shape[1]
        num_image = self.num_image_tokens
        num_text = num_tokens - num_image if num_tokens >= num_image else num_tokens
        if num_text <= self.size + 1:
            return None
        positions = torch.arange(num_tokens, device=states.device)
        is_far = (positions[:, None] - positions).abs() > self.size
        is_text = positions < num_text
        is_cut = (is_far & is_text & is_text[:, None])[None]
        if tokens.has_mask:
            is_real = tokens.attention_mask
            # Padding has no window: all tokens that are near it may be padding, too.
            is_cut = is_cut & is_real[:, :, None] | ~is_real[:, None, :]
        bias = torch.zeros(is_cut.shape, dtype=dtype, device=states.device)
        return bias.masked_fill(is_cut, -torch.inf)[:, None]


def local_layers(model: PreTrainedModel) -> tuple[int, list[bool]] | None:
    """Return a model's window and which of its layers have it, as its config tells; or None."""
    config = model.config
    size = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or []
    is_local = [kind == "sliding_attention" for kind in types]
    return (size, is_local) if isinstance(size, int) and any(is_local) else None
