"""A small copy of a model with random weights, to ask what its architecture does.

The answer is then there before any weights are read, and `renaissance check` gets the same one as
the run.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from renaissance.builtin.encoders.huggingface.building import ModelClass, build_model

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

NUM_LAYERS, NUM_WORDS = 2, 1000
# Config keys of tokens that some families treat in a special way.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config with fewer layers and words, where it has such keys."""
    small = deepcopy(config)
    num_layers, num_words = (getattr(config, n, None) for n in ("num_hidden_layers", "vocab_size"))
    # Before the number itself, with which the library compares them.
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == num_layers:
            setattr(small, name, value[:NUM_LAYERS])
    if isinstance(num_layers, int):
        small.num_hidden_layers = min(num_layers, NUM_LAYERS)
    if isinstance(num_words, int) and num_words > NUM_WORDS:
        small.vocab_size = NUM_WORDS
        for index, name in enumerate(SPECIAL_IDS):
            value = getattr(config, name, None)
            if isinstance(value, int) and value >= NUM_WORDS:
                setattr(small, name, index)
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
