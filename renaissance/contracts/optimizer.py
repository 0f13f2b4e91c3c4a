"""The contract of optimizers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from renaissance.contracts.component import Component


class Optimizer(Component, ABC):
    """Makes a torch optimizer of parameter groups.

    Multipliers by role, and which parameters decay, belong to the groups and are the engine's. The
    engine also sets each group's "lr" before every step.

    Attributes:
        states_per_parameter: Numbers it keeps for each trained number, for `renaissance check`.
    """

    states_per_parameter: ClassVar[int]

    def __init__(self, options: Any) -> None: ...

    @abstractmethod
    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimizer.

        Args:
            groups: As `torch.optim` takes them: "params" and "weight_decay"; with them "name",
                "role" ("encoder", "fusion" or "head") and "multiplier", which must stay.
            learning_rate: Peak learning rate, before multipliers.
        """
