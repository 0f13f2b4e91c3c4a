"""Texts one after the other in rows of equal length, instead of one per row with padding."""

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Packing:
    """Where the real tokens of padded texts stand in packed rows.

    Attributes:
        padded_index: Index of each real token among the padded ones, row by row, (real,), int64.
        packed_index: Its index among the packed ones, row by row, (real,), int64.
        position_ids: Position of each packed token in its text, (rows, length), int64; 0 where
            nothing stands.
        texts: Index of its text, (rows, length), int64; -1 where nothing stands.
    """

    padded_index: Tensor
    packed_index: Tensor
    position_ids: Tensor
    texts: Tensor

    def pack(self, padded: Tensor, filler: int) -> Tensor:
        """Pack ids: (texts, tokens) to (rows, length), with a filler where nothing stands."""
        values = padded.flatten().index_select(0, self.padded_index)
        packed = padded.new_full((self.texts.numel(),), filler)
        return packed.index_copy(0, self.packed_index, values).view(self.texts.shape)

    def unpack(self, packed: Tensor, num_texts: int, num_tokens: int) -> Tensor:
        """Return states in padded form: (rows, length, hidden) to (texts, tokens, hidden).

        Padding is 0.
        """
        real = packed.flatten(0, 1).index_select(0, self.packed_index)
        padded = packed.new_zeros(num_texts * num_tokens, packed.shape[-1])
        return padded.index_copy(0, self.padded_index, real).view(num_texts, num_tokens, -1)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """Return what to add to attention scores so that each token attends to its text alone.

        0 within a text and minus infinity elsewhere, (rows, 1, length, length).
        """
        is_other = self.texts[:, :, None] != self.texts[:, None, :]
        bias = torch.zeros(is_other.shape, dtype=dtype, device=is_other.device)
        return bias.masked_fill(is_other, -torch.inf)[:, None]
