"""The contract of poolers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from renaissance.contracts.component import Component
from renaissance.contracts.tokens import Tokens, TokenUse


class Pooler(nn.Module, Component, ABC):
    """Pools the fused tokens of each pair to one vector.

    A pooler is made as `cls(options, hidden_size)`.

    Attributes:
        output_size: Size of that vector.
        text_use: Which text tokens it needs; others may not be computed. "first" is a single token,
            the text's summary: the mean of its tokens, or the last one, where the encoder
            says so.
        image_use: Which image tokens it needs.
        follows_dtype: Whether it computes in the dtype of its parameters, embedding tables apart,
            and returns it. In training with `train.precision = "bf16"`, it is then given bf16
            copies of them and bf16 input; see `train.residual`. Else it runs under autocast.
    """

    output_size: int
    text_use: ClassVar[TokenUse] = "all"
    image_use: ClassVar[TokenUse] = "all"
    follows_dtype: bool = False

    @abstractmethod
    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Return (pairs, output_size).

        Args:
            text: Fused text tokens, (pairs, tokens, hidden); None if `text_use` is "none". If it is
                "first", only the first token can be relied on.
            image: Fused image tokens, likewise.
        """
