"""A hidden layer, then a linear layer."""

from typing import Literal

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Head, initialize_linear, option, own_precision, positive

# Of the norms in ViLT and METER, and in LXMERT.
EPS = {"before": 1e-5, "after": 1e-12}


class MLP(Head):
    """Dense layer, layer norm, GELU, linear layer.

    The classification head of ViLT (Kim et al., 2021) and METER (Dou et al., 2022). With
    `norm = "after"`, that of LXMERT (Tan and Bansal, 2019).
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
        norm: Literal["before", "after"] = option(
            "before", help="Whether the layer norm comes before the GELU, or after it."
        )

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        hidden_size = options.hidden_size or 2 * input_size
        self.dense = nn.Linear(input_size, hidden_size)
        self.norm = options.norm
        self.layer_norm = nn.LayerNorm(hidden_size, eps=EPS[options.norm])
        self.decoder = nn.Linear(hidden_size, output_size)
        self.apply(initialize_linear)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits, (..., output_size)."""
        states = self.dense(hidden_states)
        with own_precision(self.dense.weight):
            if self.norm == "before":
                states = F.gelu(self.layer_norm(states))
            else:
                states = self.layer_norm(F.gelu(states))
            logits: Tensor = self.decoder(states)
        return logits
