"""Token states, and the vocabulary for how they are used."""

from typing import Literal, NamedTuple

from torch import Tensor

Modality = Literal["text", "image"]
# Which tokens of a row a component reads.
TokenUse = Literal["all", "first", "none"]
# Role of a module; each has a learning rate multiplier.
Role = Literal["encoder", "fusion", "head"]


class Tokens(NamedTuple):
    """Token states with their mask.

    Attributes:
        hidden_states: (rows, tokens, hidden).
        attention_mask: True where real, (rows, tokens), bool.
    """

    hidden_states: Tensor
    attention_mask: Tensor
