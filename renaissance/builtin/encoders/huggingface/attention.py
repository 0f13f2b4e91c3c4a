"""From the mask of real tokens to the masks that Hugging Face models and layers take."""

from typing import Literal

import torch
from torch import Tensor

from renaissance import attention_bias

# What a text model takes: a bias of its attention scores, True for each pair of tokens that attend
# to each other, or 1 for real tokens.
MaskForm = Literal["bias", "pairwise", "plain"]


def mask_argument(attention_mask: Tensor, form: MaskForm, dtype: torch.dtype) -> Tensor | None:
    """Return the `attention_mask` argument for a Hugging Face text model.

    Given a plain mask, the library checks its values to see whether it can be dropped, which
    synchronizes with the device at every step. It uses one of four dimensions unchanged.

    Args:
        attention_mask: True where real, (texts, tokens), bool.
        form: What the model takes, as `probe_text` found out.
        dtype: That of queries and keys.
    """
    if form == "bias":
        return attention_bias(attention_mask, dtype)
    if form == "pairwise":
        num_tokens = attention_mask.shape[1]
        return attention_mask[:, None, None, :].expand(-1, 1, num_tokens, num_tokens)
    # On the meta device there are no values to check.
    return None if attention_mask.is_meta else attention_mask.long()
