"""Adam, with or without decoupled weight decay."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from renaissance import Optimizer, option, positive
from renaissance.builtin.optimizers.validators import fractions


class Adam(Optimizer):
    """Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015)."""

    states_per_parameter = 2

    @attrs.frozen
    class Options:
        """Options of `adam` and `adamw`."""

        betas: tuple[float, float] = option(
            (0.9, 0.98), help="Decay rates of the two moments.", validator=fractions
        )
        eps: float = option(
            1e-8, help="Added to the square root of the second moment.", validator=positive
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Return `torch.optim.Adam`, fused."""
        return torch.optim.Adam(
            groups, lr=learning_rate, betas=self.options.betas, eps=self.options.eps, fused=True
        )


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019)."""

    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Return `torch.optim.AdamW`, fused."""
        return torch.optim.AdamW(
            groups, lr=learning_rate, betas=self.options.betas, eps=self.options.eps, fused=True
        )
