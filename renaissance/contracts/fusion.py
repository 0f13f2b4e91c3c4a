"""The contract of fusion modules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import attrs
from torch import Tensor, nn

from renaissance.contracts.component import Component
from renaissance.contracts.tokens import Tokens, TokenUse


@attrs.frozen
class FusedUse:
    """Which fused tokens of a group of consecutive pairs are read.

    Attributes:
        num_pairs: Number of pairs.
        text: Which fused text tokens are read.
        image: Which fused image tokens are read.
        text_index: Index of each text token that may be read, among all text tokens of these
            pairs, row by row, (read,), int64: the real ones, and perhaps some padding. A fusion may
            leave out the others. None if they are not known.
    """

    num_pairs: int
    text: TokenUse = "all"
    image: TokenUse = "all"
    text_index: Tensor | None = None


class Fusion(nn.Module, Component, ABC):
    """Lets the tokens of the two modalities attend to each other.

    Attributes:
        hidden_size: Width of both modalities, in and out.
        follows_dtype: Whether it computes in the dtype of its parameters, embedding tables apart,
            and returns it. In training with `train.precision = "bf16"`, it is then given bf16
            copies of them and bf16 input; see `train.residual`. Else it runs under autocast.
    """

    hidden_size: int
    follows_dtype: bool = False

    @abstractmethod
    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Fuse pair by pair: hidden_states (pairs, tokens, hidden) in and out."""

    def fuse(
        self, text: Tokens, image: Tokens, uses: Sequence[FusedUse]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Fuse, and return only the tokens that are read of each group of pairs.

        Override this to skip work whose output is not read, mostly in the last layer. A modality
        used as "first" comes back with one token, one used as "none" as None. An override must
        agree with `forward` on every token that it returns.
        """
        fused_text, fused_image = self(text, image)
        results = []
        start = 0
        for use in uses:
            pairs = slice(start, start + use.num_pairs)
            results.append(
                (_select(fused_text, pairs, use.text), _select(fused_image, pairs, use.image))
            )
            start += use.num_pairs
        return results

    def fuse_rows(
        self,
        text: Tokens,
        image: Tokens,
        text_rows: Tensor,
        image_rows: Tensor,
        uses: Sequence[FusedUse],
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Gather the rows of each pair and fuse them.

        Override this to compute what depends on one row alone once, though it is in several pairs.
        An override must agree with `fuse` on the gathered rows.

        Args:
            text: Distinct texts, (texts, tokens, hidden).
            image: Distinct images, (images, tokens, hidden).
            text_rows: Row of each pair's text, (pairs,), int64.
            image_rows: Row of each pair's image, (pairs,), int64.
            uses: As for `fuse`.
        """
        return self.fuse(text.take(text_rows), image.take(image_rows), uses)

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Recompute activations in the backward pass.

        Args:
            every_n_layers: 1 for those of all layers, 2 for those of every second one, and so on.
                What is not made of layers recomputes all or nothing.

        Raises:
            ValueError: If the fusion cannot.
        """
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")


def _select(tokens: Tokens, pairs: slice, use: TokenUse) -> Tokens | None:
    if use == "none":
        return None
    positions = slice(0, 1) if use == "first" else slice(None)
    return tokens.map(lambda part: part[pairs, positions])
