"""Attention in training on a CPU, where PyTorch's own is slow.

Its fused kernel takes no dropout, and in 16 bits its backward takes longer than in 32. What it then
falls back on goes over the attention weights several times more than is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance.contracts.dropout import dropout
from renaissance.contracts.tokens import compute_dtype

pytorchs_attention = F.scaled_dot_product_attention


@contextmanager
def cpu_attention() -> Iterator[None]:
    """Let `F.scaled_dot_product_attention` be the faster one of two ways.

    It is replaced, for all threads. A `TorchFunctionMode` would be off during backward, where
    activations may be recomputed.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    dtype = compute_dtype(query)
    is_fast = dropout_p == 0.0 and dtype.itemsize > 2
    is_batch = query.ndim == 4 and (enable_gqa or query.shape[:2] == key.shape[:2])
    if is_fast or not is_batch:
        return pytorchs_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        shape = query.shape[2], key.shape[2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    if enable_gqa:
        num_sharing = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(num_sharing, dim=1) for states in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        query, key, value = (states.to(dtype) for states in (query, key, value))
        return _as_matrix_products(query, key, value, attn_mask, dropout_p, scale)


def _as_matrix_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    scale: float,
) -> Tensor:
    """Attend by two matrix products with a softmax in between, (batch, heads, tokens, size)."""
    # (batch, heads, tokens, size) -> (batch * heads, tokens, size)
    rows, columns, values = (states.flatten(0, 1) for states in (query, key, value))
    # With beta=0, what is added is not read.
    scores = torch.baddbmm(rows.new_empty(()), rows, columns.mT, beta=0, alpha=scale)
    sees_nothing = None
    if mask is not None:
        bias, sees_nothing = _bias(mask, scores.dtype)
        scores = scores.view(*query.shape[:3], key.shape[2]).add_(bias).flatten(0, 1)
    weights = dropout(scores.softmax(-1), dropout_p)
    attended = torch.bmm(weights, values).view(*query.shape[:3], value.shape[-1])
    return attended if sees_nothing is None else attended.masked_fill(sees_nothing, 0.0)


def _bias(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what is added to the scores, and which queries see nothing: their result is zero."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    sees_nothing = mask.isneginf().all(-1, keepdim=True)
    # A softmax of nothing but -inf would be NaN, and so would its gradient.
    return mask.to(dtype).masked_fill(sees_nothing, 0.0), sees_nothing
