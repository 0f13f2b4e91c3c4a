"""The mean token of each modality."""

import attrs
import torch
from torch import Tensor

from renaissance import Pooler, Tokens
from renaissance.builtin.poolers.dense import DenseTanh


class Mean(Pooler):
    """Mean of the real tokens of each modality, each through its own dense layer, concatenated.

    Made as `Mean(options, hidden_size)`.
    """

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, hidden_size: int) -> None:
        super().__init__()
        self.output_size = 2 * hidden_size
        self.text = DenseTanh(hidden_size)
        self.image = DenseTanh(hidden_size)

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """See the base class."""
        assert text is not None
        assert image is not None
        return torch.cat([self.text(_mean(text)), self.image(_mean(image))], dim=-1)


def _mean(tokens: Tokens) -> Tensor:
    weights = tokens.attention_mask.to(tokens.hidden_states.dtype)[:, :, None]
    return (tokens.hidden_states * weights).sum(1) / weights.sum(1)
