"""How a pretrained model of texts and images compares the two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from safetensors import safe_open

from renaissance import PretrainedContrast
from renaissance.builtin.encoders.huggingface.configs import integer_of
from renaissance.builtin.encoders.huggingface.families import TEXT_PART
from renaissance.builtin.encoders.huggingface.weight_files import weight_files

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig

# The logarithm of the scale, as in CLIP; ALIGN divides by a temperature.
LOG_SCALE, TEMPERATURE, BIAS = "logit_scale", "temperature", "logit_bias"


def contrast_of(whole: PreTrainedConfig, checkpoint: str | None) -> PretrainedContrast | None:
    """Return how a model compares texts with images; None if it does not.

    Args:
        whole: The config of the whole model.
        checkpoint: Hub id or local folder of its weights; None if they are not read.
    """
    # SigLIP projects texts alone, to the width of its images.
    text = getattr(whole, TEXT_PART, None)
    size = integer_of(whole, "projection_dim")
    if size is None and text is not None:
        size = integer_of(text, "projection_size")
    if size is None or text is None:
        return None
    numbers = {} if checkpoint is None else _numbers(checkpoint)
    scale = None
    if LOG_SCALE in numbers:
        scale = math.exp(numbers[LOG_SCALE])
    elif numbers.get(TEMPERATURE):
        scale = 1 / numbers[TEMPERATURE]
    return PretrainedContrast(size, scale, numbers.get(BIAS))


def _numbers(checkpoint: str) -> dict[str, float]:
    """Return the numbers in a checkpoint by the last part of their names."""
    found = {}
    for path in weight_files(checkpoint):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                last = name.rpartition(".")[2]
                if last in (LOG_SCALE, TEMPERATURE, BIAS):
                    found[last] = float(file.get_tensor(name).float().mean())
    return found
