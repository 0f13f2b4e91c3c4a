"""BEiT's relative position bias, in a stack that also runs over text tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import pad

from renaissance.builtin.encoders.huggingface.sizes import patch_grid

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel


class ImageBias(nn.Module):
    """Adds a layer's bias to its mask between image tokens; the bias is 0 where text is involved.

    Image tokens come last. A sequence too short to include an image is text alone.

    Args:
        biases: One per layer, or one that all layers share; each takes the grid and returns
            (1, heads, image_tokens, image_tokens).
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
    def take_from(cls, model: PreTrainedModel, layers: nn.ModuleList) -> ImageBias | None:
        """Take the biases out of a model and its layers; return None if it has none."""
        shared = getattr(model, "shared_position_bias", None)
        if shared is not None:
            model.shared_position_bias = None
            return cls([shared], patch_grid(model.config))
        biases = []
        for layer in layers:
            bias = getattr(layer, "relative_position_bias", None)
            if bias is None:
                return None
            biases.append(bias)
            layer.relative_position_bias = None  # type: ignore[assignment]
        return cls(biases, patch_grid(model.config))

    def forward(self, index: int, mask: Tensor) -> Tensor:
        """Return the mask to add to the attention scores of a layer.

        Args:
            index: Index of the layer.
            mask: True where attended, (rows, 1, 1, tokens), bool.

        Returns:
            (rows, heads, tokens, tokens), float; for text alone, the mask unchanged.
        """
        num_text_tokens = mask.shape[-1] - self.num_image_tokens
        if num_text_tokens < 0:
            return mask
        bias = self.biases[index % len(self.biases)](self.grid)
        bias = pad(bias, (num_text_tokens, 0, num_text_tokens, 0))
        return bias.masked_fill(~mask, float("-inf"))
