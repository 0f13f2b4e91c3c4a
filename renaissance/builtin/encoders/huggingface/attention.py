"""From the mask of real tokens to the masks that Hugging Face models and layers take."""

from torch import Tensor


def pairwise_mask(attention_mask: Tensor) -> Tensor:
    """Let each token attend to all real ones: (rows, tokens) to (rows, 1, tokens, tokens), bool.

    The result is a view; nothing is copied.
    """
    num_tokens = attention_mask.shape[1]
    return attention_mask[:, None, None, :].expand(-1, 1, num_tokens, num_tokens)


def mask_argument(attention_mask: Tensor, is_pairwise: bool) -> Tensor | None:
    """Return the `attention_mask` argument for a Hugging Face text model.

    Given a plain mask, the library checks its values to see whether it can be dropped, which
    synchronizes with the device at every step. It uses a pairwise mask unchanged.

    Args:
        attention_mask: True where real, (texts, tokens), bool.
        is_pairwise: Whether the model takes a pairwise mask, as `probe_text` found out.
    """
    if is_pairwise:
        return pairwise_mask(attention_mask)
    # On the meta device there are no values to check.
    return None if attention_mask.is_meta else attention_mask.long()
