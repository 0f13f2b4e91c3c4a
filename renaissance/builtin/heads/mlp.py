"""A hidden layer, then a linear one."""

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Head, initialize_linear


class MLP(Head):
    """Dense layer of twice the input size, layer norm, GELU, linear layer.

    The head of ViLT's and METER's classification tasks (Kim et al., 2021). Made as
    `MLP(options, input_size, output_size)`.
    """

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, 2 * input_size)
        self.layer_norm = nn.LayerNorm(2 * input_size)
        self.decoder = nn.Linear(2 * input_size, output_size)
        self.apply(initialize_linear)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """See the base class."""
        logits: Tensor = self.decoder(F.gelu(self.layer_norm(self.dense(hidden_states))))
        return logits
