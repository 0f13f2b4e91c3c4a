"""Why a Hugging Face model cannot encode a plain text or image."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

from renaissance import PluginError
from renaissance.builtin.encoders.huggingface.families import TEXT_REMEDY
from renaissance.builtin.encoders.huggingface.reasons import reason_of

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

STATES = "last_hidden_state"
# Arguments that bring images into a text model.
OTHER_INPUTS = ("pixel_values", "visual_feats")


def has_no_states(error: Exception) -> bool:
    """Return whether an error says that an output has no states, whatever its values are."""
    return isinstance(error, AttributeError) and error.name == STATES


def cannot_encode(
    where: str, model: PreTrainedModel, modality: str, error: Exception
) -> PluginError:
    """Return the error for a model that fails to encode a plain text or image."""
    cause = f"{type(error).__name__}: {reason_of(error)}"
    if isinstance(error, AttributeError) and error.name == STATES:
        cause = f"it returns a {type(error.obj).__name__}, which has no states of tokens"
    num_frames = getattr(model.config, "num_frames", 1)
    if modality == "image" and num_frames != 1:
        reason = (
            f"reads videos of {num_frames} frames, not single images; use an image model such as "
            "ViT, or the one that it was made from"
        )
    elif modality == "text" and set(OTHER_INPUTS) & set(signature(model.forward).parameters):
        reason = f"encodes texts only together with images ({cause}); {TEXT_REMEDY}"
    else:
        reason = (
            f"cannot encode a plain {modality} ({cause}); use another family, or fix the config "
            "keys if you override any"
        )
    return PluginError(f"{where}: {model.config.model_type!r} {reason}")
