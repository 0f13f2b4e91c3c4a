"""A small copy of a model with random weights, to ask what its architecture does.

The answer is then there before any weights are read, and `renaissance check` gets the same one as
the run.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig

from renaissance.builtin.encoders.huggingface.building import ModelClass, build_model

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

NUM_LAYERS, NUM_WORDS = 2, 1000


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config with fewer layers and words, where it has such keys."""
    small = deepcopy(config)
    for name, most in (("num_hidden_layers", NUM_LAYERS), ("vocab_size", NUM_WORDS)):
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, min(getattr(small, name), most))
    return small


def random_model(where: str, config: PreTrainedConfig, model_class: ModelClass) -> PreTrainedModel:
    """Build a model with weights under which every part of it shows in its output.

    Some of the library's initial weights are 0, which would hide what they are for.

    Raises:
        SpecError: If no model can be built with the config.
    """
    model = build_model(where, config, model_class)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if parameter.dim() > 1:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(noise, alpha=0.3)
    return model
