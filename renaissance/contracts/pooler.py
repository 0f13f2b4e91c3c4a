"""The contract of poolers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from renaissance.contracts.component import Component
from renaissance.contracts.tokens import Tokens, TokenUse


class Pooler(nn.Module, Component, ABC):
    """Makes one vector of the fused tokens of a pair.

    Attributes:
        output_size: Size of that vector.
        text_use: Which text tokens it reads.
        image_use: Which image tokens it reads.
    """

    output_size: int
    text_use: ClassVar[TokenUse] = "all"
    image_use: ClassVar[TokenUse] = "all"

    @abstractmethod
    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Pool to (pairs, output_size); a modality read as "none" comes as None."""
