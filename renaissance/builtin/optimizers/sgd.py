"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from renaissance import Optimizer, fraction, option


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    states_per_parameter = 1

    @attrs.frozen
    class Options:
        """Options of `sgd`."""

        momentum: float = option(
            0.9, help="Share of the previous update to keep.", validator=fraction
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD`, fused."""
        return torch.optim.SGD(groups, lr=learning_rate, momentum=self.options.momentum, fused=True)
