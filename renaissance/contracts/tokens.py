"""Token states, and the vocabulary for how they are used."""

from typing import Literal, NamedTuple

from torch import Tensor

Modality = Literal["text", "image"]
# Which tokens of a row a component reads; "first" stands for the row's summary.
TokenUse = Literal["all", "first", "none"]
# Where a row's summary is: in its first token, or in no single one.
Summary = Literal["first", "mean"]
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


def summarize(tokens: Tokens, summary: Summary) -> Tensor:
    """Return one vector per row, (rows, hidden): the first token, or the mean of the real ones."""
    if summary == "first":
        return tokens.hidden_states[:, 0]
    is_real = tokens.attention_mask[:, :, None].to(tokens.hidden_states.dtype)
    mean: Tensor = (tokens.hidden_states * is_real).sum(1) / is_real.sum(1)
    return mean
