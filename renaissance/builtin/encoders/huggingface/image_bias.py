"""BEiT's relative position bias, in a stack that text tokens run through too."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from renaissance.builtin.encoders.huggingface.sizes import patch_grid


class ImageBias(nn.Module):
    """Adds the bias of a layer to its mask, between image tokens; zero wherever text takes part.

    Image tokens are the last ones. A sequence that is too short to hold an image is text alone.

    Args:
        biases: One a layer, or a single one that all layers share; each takes the grid and
            returns (1, heads, image_tokens, image_tokens).
        grid: Height and width of the image in patches.

    Attributes:
        num_image_tokens: Patches and the class token.
    """

    def __init__(self, biases: Sequence[nn.Module], grid: tuple[int, int]) -> None:
        super().__init__()
        self.biases = nn.ModuleList(biases)
        self.grid = grid
        self.num_image_tokens = grid[0] * grid[1] + 1

    @classmethod
    def take_from(cls, model: PreTrainedModel, layers: nn.ModuleList) -> "ImageBias | None":
        """Take the biases out of a model and its layers; None if it has none."""
        shared = getattr(model, "shared_position_bias", None)
        if shared is not None:
            model.shared_position_bias = None
            return cls([shared], patch_grid(model.config))
        biases = []
        layer: Any
        for layer in layers:
            if getattr(layer, "relative_position_bias", None) is None:
                return None
            biases.append(layer.relative_position_bias)
            layer.relative_position_bias = None
        return cls(biases, patch_grid(model.config))

    def forward(self, index: int, mask: Tensor) -> Tensor:
        """Return the mask to add to the attention scores of a layer.

        Args:
            index: Number of the layer.
            mask: True where attended, (rows, 1, tokens, tokens), bool.

        Returns:
            (rows, heads, tokens, tokens), float; or the mask as it came, for text alone.
        """
        num_text_tokens = mask.shape[-1] - self.num_image_tokens
        if num_text_tokens < 0:
            return mask
        bias = self.biases[index % len(self.biases)](self.grid)
        bias = pad(bias, (num_text_tokens, 0, num_text_tokens, 0))
        return bias.masked_fill(~mask, float("-inf"))
