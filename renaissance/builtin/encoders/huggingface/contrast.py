"""How a pretrained model of texts and images compares the two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs
import torch
from safetensors import safe_open
from torch import Tensor

from renaissance import Modality, PretrainedContrast
from renaissance.builtin.encoders.huggingface.configs import integer_of
from renaissance.builtin.encoders.huggingface.families import TEXT_PART, image_config
from renaissance.builtin.encoders.huggingface.weight_files import weight_files

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig


@attrs.frozen
class Projection:
    """How a summary becomes the vector that is compared.

    Attributes:
        name: What the names of the weights of a linear layer end with; None if there is none.
        has_bias: Whether that layer has a bias.
        norm: What the names of the weights of a layer norm before it end with; None without one.
    """

    name: str | None
    has_bias: bool = False
    norm: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """Ends of the names of its weights, and ours."""
        kinds = ("weight", "bias") if self.has_bias else ("weight",)
        found = {f"{self.name}.{kind}": f"projection.{kind}" for kind in kinds if self.name}
        norm = {f"{self.norm}.{kind}": f"norm.{kind}" for kind in ("weight", "bias") if self.norm}
        return {**found, **norm}


_CLIP: Mapping[Modality, Projection] = {
    "text": Projection("text_projection"),
    "image": Projection("visual_projection", norm="post_layernorm"),
}
# Families that do no more than this between summaries and vectors, as tests/builtin/test_itc.py
# shows.
PROJECTIONS: Mapping[str, Mapping[Modality, Projection]] = {
    "align": {"text": Projection("text_projection", has_bias=True), "image": Projection(None)},
    "altclip": _CLIP,
    "chinese_clip": _CLIP,
    "clip": _CLIP,
    "clipseg": _CLIP,
    "flava": {
        "text": Projection("text_projection", has_bias=True),
        "image": Projection("image_projection", has_bias=True),
    },
    "metaclip_2": _CLIP,
    "owlv2": _CLIP,
    "owlvit": _CLIP,
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
    projections = PROJECTIONS.get(whole.model_type)
    projection = None if projections is None else projections[modality]
    names = {} if projection is None else projection.names
    found = {} if checkpoint is None or not load_weights else _tensors(checkpoint, names)
    numbers = {n: float(t.float().mean()) for n, t in found.items() if n in NUMBERS}
    scale = None
    if LOG_SCALE in numbers:
        scale = math.exp(numbers[LOG_SCALE])
    elif numbers.get(TEMPERATURE):
        scale = 1 / numbers[TEMPERATURE]
    weights = {}
    if projection is not None and found and found.keys() >= names.keys():
        weights = {ours: found[theirs].float() for theirs, ours in names.items()}
        if projection.name is None:
            weights["projection.weight"] = torch.eye(size)
    return PretrainedContrast(
        size,
        scale,
        numbers.get(BIAS),
        checkpoint,
        has_projection_bias=projection is not None and projection.has_bias,
        norm_eps=None if projection is None else _norm_eps(whole, projection),
        weights=weights,
    )


def _norm_eps(whole: PreTrainedConfig, projection: Projection) -> float | None:
    return None if projection.norm is None else float(image_config(whole).layer_norm_eps)


def _tensors(checkpoint: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the numbers and weights of a comparison, by the ends of their names."""
    found = {}
    for path in weight_files(checkpoint):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                for end in (*NUMBERS, *names):
                    if name == end or name.endswith(f".{end}"):
                        found[end] = file.get_tensor(name)
    return found
