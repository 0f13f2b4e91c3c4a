"""The contract of fusion modules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import attrs
from torch import nn

from renaissance.contracts.component import Component
from renaissance.contracts.tokens import Tokens, TokenUse


@attrs.frozen
class FusedUse:
    """What is read of a run of consecutive pairs after fusion.

    Attributes:
        num_pairs: How many pairs.
        text: Which fused text tokens are read.
        image: Which fused image tokens are read.
    """

    num_pairs: int
    text: TokenUse = "all"
    image: TokenUse = "all"


class Fusion(nn.Module, Component, ABC):
    """Lets the tokens of the two modalities attend to each other.

    Attributes:
        hidden_size: Width it takes and returns, of both modalities.
    """

    hidden_size: int

    @abstractmethod
    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Fuse pair by pair: hidden_states (pairs, tokens, hidden) in and out."""

    def fuse(
        self, text: Tokens, image: Tokens, uses: Sequence[FusedUse]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Fuse, and return for each run of pairs only what is read of it.

        Override this to leave out work whose output nobody reads (the last layer's, mostly). An
        entry read as "first" has one token, one read as "none" is None. The overriding method
        must agree with `forward` on every token it returns.
        """
        fused_text, fused_image = self(text, image)
        results = []
        start = 0
        for run in uses:
            pairs = slice(start, start + run.num_pairs)
            results.append(
                (_select(fused_text, pairs, run.text), _select(fused_image, pairs, run.image))
            )
            start += run.num_pairs
        return results

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward. Fusions that cannot say so by raising ValueError."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")


def _select(tokens: Tokens, pairs: slice, read: TokenUse) -> Tokens | None:
    if read == "none":
        return None
    positions = slice(0, 1) if read == "first" else slice(None)
    return Tokens(tokens.hidden_states[pairs, positions], tokens.attention_mask[pairs, positions])
