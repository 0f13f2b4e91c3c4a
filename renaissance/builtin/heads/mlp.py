"""A hidden layer, then a linear layer."""

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Head, initialize_linear, option, own_precision, positive


class MLP(Head):
    """Dense layer, layer norm, GELU, linear layer.

    The classification head of ViLT (Kim et al., 2021) and METER (Dou et al., 2022).
    """

    follows_dtype = True

    @attrs.frozen
    class Options:
        """Options of the head."""

        hidden_size: int | None = option(
            None,
            help="Size of the hidden layer; twice the size of the input by default.",
            validator=positive,
        )

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        hidden_size = options.hidden_size or 2 * input_size
        self.dense = nn.Linear(input_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.decoder = nn.Linear(hidden_size, output_size)
        self.apply(initialize_linear)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits, (..., output_size)."""
        states = self.dense(hidden_states)
        with own_precision(self.dense.weight):
            logits: Tensor = self.decoder(F.gelu(self.layer_norm(states)))
        return logits
