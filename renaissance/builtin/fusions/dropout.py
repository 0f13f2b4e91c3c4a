"""Dropout that is cheap on a CPU too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 16
LEVELS = 2**BITS


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, whose mask on a CPU is made of 16 random bits an element.

    There PyTorch draws each element's Bernoulli number by itself, which in a fusion layer costs as
    much as a matrix product. The probability is rounded to a multiple of 1/65536, and what is kept
    is scaled by that rounded probability, so that the expectation is exact.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop and scale, any shape in and out."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return F.dropout(input, self.p, self.training)
        dropped_levels = round(self.p * LEVELS)
        if dropped_levels == LEVELS:
            return input * 0.0
        scale = LEVELS / (LEVELS - dropped_levels)
        kept = _random_levels(input) >= dropped_levels - LEVELS // 2
        output: Tensor = input * kept.to(input.dtype).mul_(scale)
        return output


def _random_levels(like: Tensor) -> Tensor:
    """Return numbers uniform over int16, of a tensor's shape."""
    count = like.numel()
    # random_ without a range leaves the sign bit alone.
    words = torch.empty(-(-count * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(like.shape)
