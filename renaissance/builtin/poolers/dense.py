"""What the built-in poolers share: the check of their input, and their last step."""

from torch import Tensor, nn

from renaissance import PluginError, Tokens, initialize_linear


def needed(tokens: Tokens | None) -> Tokens:
    """Return the tokens of a modality that the pooler reads.

    Raises:
        PluginError: If they are missing.
    """
    if tokens is None:
        raise PluginError(
            "the pooler reads tokens that it was not given; expected those that its text_use and "
            "image_use name. Fix the model that calls it"
        )
    return tokens


class DenseTanh(nn.Module):
    """A linear layer and tanh, as in BERT's pooler: (pairs, hidden) in and out."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        initialize_linear(self.dense)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each vector."""
        output: Tensor = self.dense(hidden_states).tanh()
        return output
