"""The step that all built-in poolers end with."""

from torch import Tensor, nn

from renaissance import initialize_linear


class DenseTanh(nn.Module):
    """A linear layer and tanh, as BERT's pooler: (pairs, hidden) in and out."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        initialize_linear(self.dense)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each vector."""
        output: Tensor = self.dense(hidden_states).tanh()
        return output
