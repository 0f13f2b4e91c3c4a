"""Where the output of a Hugging Face model has its states."""

from typing import Any, cast

from torch import Tensor

from renaissance import PluginError

STATES = "last_hidden_state"


def image_states(output: Any) -> Tensor:
    """Return the last states of an image model's output.

    Of some families, such as HGNet-v2, the library has only a backbone, which returns the feature
    maps of stages; the last is the deepest.

    Returns:
        (images, tokens, hidden), or a feature map, (images, hidden, height, width).
    """
    maps = output.get("feature_maps")
    return cast(Tensor, output.last_hidden_state if maps is None else maps[-1])


def has_no_states(error: Exception) -> bool:
    """Return whether an error says that an output has no states, whatever its values are."""
    return isinstance(error, AttributeError) and error.name == STATES


def cannot_encode(where: str, family: str, modality: str, error: Exception) -> PluginError:
    """Return the error for a model that fails to encode a plain text or image."""
    cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, AttributeError) and error.name == STATES:
        cause = f"it returns a {type(error.obj).__name__}, which has no states of tokens"
    return PluginError(
        f"{where}: {family!r} cannot encode a plain {modality} ({cause}); use another family, or "
        "fix the config keys if you override any"
    )
