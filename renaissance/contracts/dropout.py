"""Dropout that is fast on a CPU, too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 16
LEVELS = 2**BITS


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, except that on a CPU the mask takes only 16 random bits per element.

    PyTorch draws one Bernoulli number per element there, which in a fusion layer takes as long as a
    matrix product. The probability is rounded to a multiple of 1/65536, and the kept elements are
    scaled by the rounded probability, so that the expected value is exact.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop and scale elements, any shape in and out."""
        return dropout(input, self.p) if self.training else input


def dropout(states: Tensor, probability: float) -> Tensor:
    """Drop elements with a probability and scale the rest, any shape in and out.

    Args:
        states: What to drop from.
        probability: Of each element, from 0 to 1.
    """
    if probability == 0 or states.device.type != "cpu":
        return F.dropout(states, probability)
    dropped_levels = round(probability * LEVELS)
    if dropped_levels == LEVELS:
        return states * 0.0
    scale = LEVELS / (LEVELS - dropped_levels)
    # In place, the comparison keeps the dtype, which takes half the time of making booleans.
    kept = _random_levels(states.detach()).ge_(dropped_levels - LEVELS // 2)
    output: Tensor = states * kept.to(states.dtype).mul_(scale)
    return output


# An operator of its own, because `random_` would end a graph of torch.compile. The tag keeps a
# compiler from drawing the numbers once for two layers, or again in the backward pass.
@torch.library.custom_op(
    "renaissance::random_levels", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _random_levels(like: Tensor) -> Tensor:
    """Return random numbers, uniform over int16, in the shape of a tensor."""
    count = like.numel()
    # The range is given because random_ without one never sets the sign bit.
    words = torch.empty(-(-count * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(like.shape)


@_random_levels.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=torch.int16, memory_format=torch.contiguous_format)
