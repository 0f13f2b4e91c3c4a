"""A small copy of a model with random weights, to ask what its architecture does.

The answer is then there before any weights are read, and `renaissance check` gets the same one as
the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from renaissance.builtin.encoders.huggingface.building import ModelClass, build_model
from renaissance.builtin.encoders.huggingface.configs import integer_of

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

NUM_LAYERS, NUM_WORDS = 2, 1000
# Wider models get fewer heads, of the same width each, narrower feed-forward layers, and fewer
# experts: even two layers of a large language model would take many seconds.
WIDE = 1024
NUM_HEADS, FEED_FORWARD, NUM_EXPERTS = 4, 128, 16
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# More parameters are not made only to ask a question.
MAX_PARAMETERS = 500_000_000
# Config keys of tokens that some families treat in a special way.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def small_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Return configs to make a copy with, from the smallest to the model's own.

    Some families need the number of layers, of words or of heads that they have.
    """
    small = small_config(config)
    narrow = _narrower(small)
    return (copy for copy in (narrow, small, config) if copy is not None)


def _narrower(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """Return a config of a narrower model, if it is wide and has the usual keys."""
    narrow = deepcopy(config)
    width, num_heads, num_shared = (
        integer_of(config, name)
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    if width is None or num_heads is None or width <= WIDE:
        return None
    if num_heads <= NUM_HEADS or width % num_heads:
        return None
    narrow.hidden_size = NUM_HEADS * (width // num_heads)
    narrow.num_attention_heads = NUM_HEADS
    if num_shared is not None:
        narrow.num_key_value_heads = NUM_HEADS if num_shared == num_heads else min(num_shared, 2)
    for name, value in vars(config).items():
        if isinstance(value, int) and name.endswith("intermediate_size"):
            setattr(narrow, name, min(value, FEED_FORWARD))
        if isinstance(value, int) and name in EXPERTS:
            setattr(narrow, name, min(value, NUM_EXPERTS))
    return narrow


def is_large(where: str, config: PreTrainedConfig, model_class: ModelClass) -> bool:
    """Return whether a model has too many parameters to make a copy of its size."""
    try:
        with torch.device("meta"):
            model = build_model(where, config, model_class)
    # On the meta device, a family may want values; whether it can be built shows when it is.
    except Exception:
        return False
    num_parameters: int = sum(parameter.numel() for parameter in model.parameters())
    return num_parameters > MAX_PARAMETERS


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config with fewer layers and words, where it has such keys."""
    small = deepcopy(config)
    num_layers, num_words = (integer_of(config, n) for n in ("num_hidden_layers", "vocab_size"))
    # Before the number itself, with which the library compares them.
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == num_layers:
            setattr(small, name, value[:NUM_LAYERS])
    if num_layers is not None:
        small.num_hidden_layers = min(num_layers, NUM_LAYERS)
    if num_words is not None and num_words > NUM_WORDS:
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
