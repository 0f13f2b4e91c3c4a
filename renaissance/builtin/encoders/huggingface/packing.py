"""Which Hugging Face text models encode several texts in one row as they encode each alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Importing it takes a second, and listing plugins does without.
    from transformers import PreTrainedConfig

# They take positions, and use a mask of pairs of tokens as it is; see
# tests/builtin/test_packing.py.
PACKING_FAMILIES = frozenset(
    {"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"}
)
# Their first position comes after that of padding.
_AFTER_PADDING = frozenset({"camembert", "roberta", "xlm-roberta"})


def first_position(config: PreTrainedConfig) -> int:
    """Return the position id of a text's first token."""
    if config.model_type not in _AFTER_PADDING:
        return 0
    return int(config.pad_token_id) + 1
