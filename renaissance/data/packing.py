"""Pack the texts of a micro-batch, of which padding is often more than half."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch

from renaissance.contracts.batches import Pairs
from renaissance.contracts.packing import Packing

# Rows have a multiple of so many tokens: two to four captions.
ROW_MULTIPLE = 64
# Below this share of padding, packing is not worth its indices.
MIN_PADDING = 0.1


def pack_texts(lengths: Sequence[int], num_tokens: int) -> Packing | None:
    """Pack texts, best fit, the longest first.

    Args:
        lengths: Length of each text in tokens.
        num_tokens: Length that they are padded to.

    Returns:
        None if there is little padding.
    """
    if sum(lengths) > (1 - MIN_PADDING) * len(lengths) * num_tokens:
        return None
    row_length = -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE
    rows = _rows(lengths, row_length)
    if len(rows) * row_length > len(lengths) * num_tokens:
        return None
    position_ids = np.zeros((len(rows), row_length), np.int64)
    texts = np.full((len(rows), row_length), -1)
    for row, members in enumerate(rows):
        start = 0
        for text in members:
            stop = start + lengths[text]
            position_ids[row, start:stop] = np.arange(lengths[text])
            texts[row, start:stop] = text
            start = stop
    packed_index = np.flatnonzero(texts >= 0)
    padded = texts.flat[packed_index] * num_tokens + position_ids.flat[packed_index]
    arrays = (padded, packed_index, position_ids, texts)
    return Packing(*(torch.from_numpy(array) for array in arrays))


def find_real_tokens(pairs: Pairs, lengths: Sequence[int], num_tokens: int) -> Pairs:
    """Return pairs that know which of their text tokens are real.

    Args:
        pairs: Pairs of the micro-batch.
        lengths: Length of each of its texts in tokens.
        num_tokens: Length that they are padded to.
    """
    rows = pairs.text_rows.numpy()
    # What breaks the contract of objectives is left to what reads it, which can say so.
    if rows.dtype != np.int64 or not np.isin(rows, range(len(lengths))).all():
        return pairs
    is_real = np.arange(num_tokens) < np.array(lengths)[rows][:, None]
    index = np.flatnonzero(is_real)
    # With a little padding, the same counts recur: compiled layers and memory are used again.
    num_more = -len(index) % ROW_MULTIPLE
    index = np.concatenate([index, np.flatnonzero(~is_real)[:num_more]])
    return attrs.evolve(pairs, text_index=torch.from_numpy(index))


def _rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Return the texts of each row."""
    rows: list[list[int]] = []
    # Rows by how many tokens still fit.
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]
    for text in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[text]
        room = next((r for r in range(length, row_length + 1) if open_rows[r]), None)
        if room is None:
            room, row = row_length, len(rows)
            rows.append([])
        else:
            row = open_rows[room].pop()
        rows[row].append(text)
        open_rows[room - length].append(row)
    return rows
