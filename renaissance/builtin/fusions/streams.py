"""The tokens of one modality on their way through a fusion."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from renaissance import FusedUse, TokenUse


class RealTokens(NamedTuple):
    """The tokens of padded rows that are computed.

    What treats tokens one by one, such as a linear layer, then has no padding; attention takes
    padded rows.

    Attributes:
        padded_index: Index of each token among the padded ones, row by row, (real,), int64.
        num_rows: Number of rows.
        num_tokens: Length that they are padded to.
    """

    padded_index: Tensor
    num_rows: int
    num_tokens: int

    @property
    def num_real(self) -> int:
        """The number of tokens that are computed."""
        return self.padded_index.shape[0]

    def pack(self, padded: Tensor) -> Tensor:
        """Return the tokens that are computed: (rows, tokens, size) to (real, size)."""
        return padded.flatten(0, 1).index_select(0, self.padded_index)

    def unpack(self, packed: Tensor) -> Tensor:
        """Return padded rows, in which padding is 0: (real, size) to (rows, tokens, size)."""
        padded = packed.new_zeros(self.num_rows * self.num_tokens, packed.shape[-1])
        padded.index_copy_(0, self.padded_index, packed)
        return padded.view(self.num_rows, self.num_tokens, -1)


class Stream(NamedTuple):
    """The tokens of one modality inside a fusion.

    Attributes:
        states: (pairs, tokens, hidden); (real, hidden) if `packed` is given, and (rows, tokens,
            hidden) if `rows` is.
        bias: What is added to the scores of queries that attend to them, (pairs, 1, 1, tokens);
            None if all are real.
        rows: Row of each pair, (pairs,), int64, where pairs share rows that no layer changes.
        packed: Which tokens the states are of; None if of all.
    """

    states: Tensor
    bias: Tensor | None
    rows: Tensor | None = None
    packed: RealTokens | None = None

    def unpack(self, values: Tensor) -> Tensor:
        """Return values of the states' tokens in padded form, (pairs, tokens, size)."""
        return values if self.packed is None else self.packed.unpack(values)

    def pack(self, padded: Tensor) -> Tensor:
        """Return padded values in the form of the states."""
        return padded if self.packed is None else self.packed.pack(padded)

    def select(self, use: TokenUse) -> "Stream":
        """Return the stream of all tokens (itself) or of the first one; never ask it for none."""
        return self if use == "all" else Stream(self.unpack(self.states)[:, :1], self.bias)


def real_tokens(uses: Sequence[FusedUse], num_tokens: int) -> RealTokens | None:
    """Return the text tokens to compute for groups of pairs, if all of them are known."""
    parts, num_pairs = [], 0
    for use in uses:
        if use.text_index is None:
            return None
        # Where the first group begins, nothing is to be added.
        parts.append(use.text_index + num_pairs * num_tokens if num_pairs else use.text_index)
        num_pairs += use.num_pairs
    return RealTokens(parts[0] if len(parts) == 1 else torch.cat(parts), num_pairs, num_tokens)
