"""From the mask of real tokens to what Hugging Face models and layers take."""

from torch import Tensor
from transformers import PreTrainedConfig


def pairwise_mask(attention_mask: Tensor) -> Tensor:
    """Let every token attend to the real ones: (rows, tokens) to (rows, 1, tokens, tokens), bool.

    Nothing is copied: the new axes are views.
    """
    num_tokens = attention_mask.shape[1]
    return attention_mask[:, None, None, :].expand(-1, 1, num_tokens, num_tokens)


def mask_argument(config: PreTrainedConfig, attention_mask: Tensor) -> Tensor | None:
    """Return the `attention_mask` argument for a Hugging Face text model.

    Given the plain mask, the library looks into it to see whether it can be left out: that waits
    for the device in every step. A pairwise mask it takes as it is. Models with local attention
    and those without SDPA need the plain one, because they make other masks of it.

    Args:
        config: The model's config.
        attention_mask: True where real, (texts, tokens), bool.
    """
    if config._attn_implementation == "sdpa" and not hasattr(config, "layer_types"):
        return pairwise_mask(attention_mask)
    # On the meta device there is nothing to look into.
    return None if attention_mask.is_meta else attention_mask
