"""A hidden layer, then a linear layer."""

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Head, initialize_linear, own_precision


class MLP(Head):
    """Dense layer of twice the input size, layer norm, GELU, linear layer.

    The classification head of ViLT (Kim et al., 2021) and METER (Dou et al., 2022).
    """

    follows_dtype = True

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
        """Return the logits, (..., output_size)."""
        states = self.dense(hidden_states)
        with own_precision(self.dense.weight):
            logits: Tensor = self.decoder(F.gelu(self.layer_norm(states)))
        return logits
