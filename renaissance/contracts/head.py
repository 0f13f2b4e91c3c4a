"""The contract of heads."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from renaissance.contracts.component import Component


class Head(nn.Module, Component, ABC):
    """Turns vectors into logits: (..., input_size) to (..., output_size).

    A head is made as `cls(options, input_size, output_size)`.

    Attributes:
        follows_dtype: Whether it computes in the dtype of its parameters, embedding tables apart,
            and returns it. In training with `train.precision = "bf16"`, it is then given bf16
            copies of them and bf16 input; see `train.residual`. Else it runs under autocast.
    """

    follows_dtype: bool = False

    @abstractmethod
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits."""

    if TYPE_CHECKING:
        # nn.Module's own __call__ returns Any.
        __call__ = forward
