"""The first text token."""

import attrs
from torch import Tensor

from renaissance import Pooler, Tokens
from renaissance.builtin.poolers.dense import DenseTanh, needed


class Single(Pooler):
    """First text token, through a dense layer.

    As in ViLT (Kim et al., 2021), where one stack runs over both modalities. Of an encoder without
    a class token, the mean of the text tokens.
    """

    text_use = "first"
    image_use = "none"
    follows_dtype = True

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.text = DenseTanh(hidden_size)

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Return (pairs, hidden)."""
        pooled: Tensor = self.text(needed(text).hidden_states[:, 0])
        return pooled
