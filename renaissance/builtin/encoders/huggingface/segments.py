"""Which of two texts a token belongs to, for models that embed this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Rows of a token type table for two texts.
NUM_SEGMENTS = 2


def segment_argument(
    config: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor, separator_id: int | None
) -> dict[str, Tensor]:
    """Return the `token_type_ids` argument for a Hugging Face text model that can take it.

    The second text begins after the first separator (Devlin et al., "BERT", NAACL 2019).

    Args:
        config: The model's config; RoBERTa and DistilBERT have no types for two texts.
        input_ids: Token ids, (texts, tokens), int64.
        attention_mask: True where real, (texts, tokens), bool.
        separator_id: Id of the token between two texts; None if the tokenizer has no types.

    Returns:
        The argument by name, 0 in the first text and 1 in the second, (texts, tokens), int64; empty
        if the model takes none.
    """
    if separator_id is None or getattr(config, "type_vocab_size", 0) < NUM_SEGMENTS:
        return {}
    separators = (input_ids == separator_id).long()
    is_after_one = separators.cumsum(dim=1) > separators
    return {"token_type_ids": (is_after_one & attention_mask).long()}
