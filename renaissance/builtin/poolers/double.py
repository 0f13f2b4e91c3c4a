"""The first token of each modality."""

import attrs
import torch
from torch import Tensor

from renaissance import Pooler, Tokens
from renaissance.builtin.poolers.dense import DenseTanh, needed


class Double(Pooler):
    """First text token and first image token, each through its own dense layer, concatenated.

    As in METER (Dou et al., 2022). Of an encoder without a class token, the mean of the tokens.
    """

    text_use = "first"
    image_use = "first"
    follows_dtype = True

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, hidden_size: int) -> None:
        super().__init__()
        self.output_size = 2 * hidden_size
        self.text = DenseTanh(hidden_size)
        self.image = DenseTanh(hidden_size)

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Return (pairs, 2 * hidden): text first, then image."""
        pooled_text = self.text(needed(text).hidden_states[:, 0])
        pooled_image = self.image(needed(image).hidden_states[:, 0])
        return torch.cat([pooled_text, pooled_image], dim=-1)
