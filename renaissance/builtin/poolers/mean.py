"""The mean of the tokens of each modality."""

import attrs
import torch
from torch import Tensor

from renaissance import Pooler, Tokens, summarize
from renaissance.builtin.poolers.dense import DenseTanh, needed


class Mean(Pooler):
    """Mean of the real tokens of each modality, each through its own dense layer, concatenated."""

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
        pooled_text = self.text(summarize(needed(text), "mean"))
        pooled_image = self.image(summarize(needed(image), "mean"))
        return torch.cat([pooled_text, pooled_image], dim=-1)
