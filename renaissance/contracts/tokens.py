"""Token states, and the few words that say what becomes of them."""

from typing import Literal, NamedTuple

from torch import Tensor

Modality = Literal["text", "image"]
# Which of a row's tokens a component uses.
TokenUse = Literal["all", "first", "none"]
# Of a module, for learning rate multipliers.
Role = Literal["encoder", "fusion", "head"]


class Tokens(NamedTuple):
    """A sequence of token states with its mask.

    Attributes:
        hidden_states: (rows, tokens, hidden).
        attention_mask: True where real, (rows, tokens), bool.
    """

    hidden_states: Tensor
    attention_mask: Tensor
