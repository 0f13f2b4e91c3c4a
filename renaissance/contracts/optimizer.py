"""The contract of optimizers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch

from renaissance.contracts.component import Component

# As torch.optim types its groups: a tensor list, numbers and strings side by side.
ParameterGroup: TypeAlias = dict[str, Any]


class Optimizer(Component, ABC):
    """Makes a torch optimizer from parameter groups.

    The engine decides which parameters decay and the learning rate multiplier of each role, stores
    both in the groups, and sets each group's "lr" before every step.

    Attributes:
        states_per_parameter: How many values it keeps per trained value (2 for Adam), from which
            `renaissance check` estimates memory.
    """

    states_per_parameter: ClassVar[int]

    def __init__(self, options: object) -> None: ...

    @abstractmethod
    def make(self, groups: Sequence[ParameterGroup], learning_rate: float) -> torch.optim.Optimizer:
        """Return the optimizer.

        Args:
            groups: For `torch.optim`, with the keys "params" and "weight_decay". They also hold
                "name", "role" ("encoder", "fusion" or "head") and "multiplier", which must be
                kept, and "is_embedding", one bool per parameter.
            learning_rate: Peak learning rate, before multipliers.
        """
