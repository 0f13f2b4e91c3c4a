"""The contract of heads."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from renaissance.contracts.component import Component


class Head(nn.Module, Component, ABC):
    """Turns vectors into logits: (..., input_size) to (..., output_size)."""

    @abstractmethod
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits."""
