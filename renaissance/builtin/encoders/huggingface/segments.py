"""Which of two texts a token belongs to, for models that have an embedding for each."""

from torch import Tensor
from transformers import PreTrainedConfig

# Rows of the table that tell two texts apart.
NUM_SEGMENTS = 2


def segment_argument(
    config: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor, separator_id: int | None
) -> dict[str, Tensor]:
    """Return the `token_type_ids` argument for a Hugging Face text model that can take it.

    The second text begins after the first separator (Devlin et al., "BERT", NAACL 2019).

    Args:
        config: The model's config; RoBERTa's and DistilBERT's have no such types.
        input_ids: Token ids, (texts, tokens), int64.
        attention_mask: True where real, (texts, tokens), bool.
        separator_id: What stands between the two texts; None if nothing tells them apart.

    Returns:
        The argument by name: 0 in the first text, 1 in the second one, (texts, tokens), int64.
    """
    if separator_id is None or getattr(config, "type_vocab_size", 0) < NUM_SEGMENTS:
        return {}
    separators = (input_ids == separator_id).long()
    is_after_one = separators.cumsum(dim=1) > separators
    return {"token_type_ids": (is_after_one & attention_mask).long()}
