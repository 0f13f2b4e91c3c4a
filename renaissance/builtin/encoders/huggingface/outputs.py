"""Where the output of a Hugging Face image model has its states."""

from typing import Any, cast

from torch import Tensor


def image_states(output: Any) -> Tensor:
    """Return the last states of an image model's output.

    Of some families, such as HGNet-v2, the library has only a backbone, which returns the feature
    maps of stages; the last is the deepest.

    Returns:
        (images, tokens, hidden), or a feature map, (images, hidden, height, width).
    """
    maps = output.get("feature_maps")
    return cast(Tensor, output.last_hidden_state if maps is None else maps[-1])
