"""How a pretrained model of texts and images compares the two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import Tensor

from renaissance import Modality, PretrainedContrast
from renaissance.builtin.encoders.huggingface.configs import integer_of
from renaissance.builtin.encoders.huggingface.families import TEXT_PART, image_config
from renaissance.builtin.encoders.huggingface.weight_files import weight_files

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig

# Families that compare the summaries of text and image after one linear layer each, and a norm of
# images, as tests/builtin/test_itc.py shows.
LINEAR_FAMILIES = frozenset(
    {"altclip", "chinese_clip", "clip", "clipseg", "metaclip_2", "owlv2", "owlvit"}
)
# By modality, the ends of the names of their weights, and our names.
WEIGHTS: Mapping[Modality, Mapping[str, str]] = {
    "text": {"text_projection.weight": "projection.weight"},
    "image": {
        "visual_projection.weight": "projection.weight",
        "post_layernorm.weight": "norm.weight",
        "post_layernorm.bias": "norm.bias",
    },
}
# The logarithm of the scale, as in CLIP; ALIGN divides by a temperature.
NUMBERS = LOG_SCALE, TEMPERATURE, BIAS = "logit_scale", "temperature", "logit_bias"


def contrast_of(
    whole: PreTrainedConfig, modality: Modality, checkpoint: str | None, load_weights: bool
) -> PretrainedContrast | None:
    """Return how a model compares texts with images; None if it does not.

    Args:
        whole: The config of the whole model.
        modality: That of the part in use.
        checkpoint: Hub id or local folder of its weights; None if they are random.
        load_weights: Whether they are read.
    """
    # SigLIP projects texts alone, to the width of its images.
    text = getattr(whole, TEXT_PART, None)
    size = integer_of(whole, "projection_dim")
    if size is None and text is not None:
        size = integer_of(text, "projection_size")
    if size is None or text is None:
        return None
    found = {} if checkpoint is None or not load_weights else _tensors(checkpoint, modality)
    numbers = {n: float(t.float().mean()) for n, t in found.items() if n in NUMBERS}
    scale = None
    if LOG_SCALE in numbers:
        scale = math.exp(numbers[LOG_SCALE])
    elif numbers.get(TEMPERATURE):
        scale = 1 / numbers[TEMPERATURE]
    return PretrainedContrast(
        size,
        scale,
        numbers.get(BIAS),
        checkpoint,
        _norm_eps(whole, modality),
        _weights(whole, modality, found),
    )


def _norm_eps(whole: PreTrainedConfig, modality: Modality) -> float | None:
    if whole.model_type not in LINEAR_FAMILIES or modality == "text":
        return None
    return float(image_config(whole).layer_norm_eps)


def _weights(
    whole: PreTrainedConfig, modality: Modality, found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the projection and what belongs to it, if all of it is there."""
    names = WEIGHTS[modality]
    if whole.model_type not in LINEAR_FAMILIES or not found.keys() >= names.keys():
        return {}
    return {ours: found[theirs].float() for theirs, ours in names.items()}


def _tensors(checkpoint: str, modality: Modality) -> dict[str, Tensor]:
    """Return the numbers and weights of a comparison, by the ends of their names."""
    found = {}
    for path in weight_files(checkpoint):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                for end in (*NUMBERS, *WEIGHTS[modality]):
                    if name == end or name.endswith(f".{end}"):
                        found[end] = file.get_tensor(name)
    return found
