"""BERT's prediction of masked tokens."""

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from renaissance import Head, initialize_linear, own_precision


class MLMHead(Head):
    """Dense layer, GELU, layer norm, projection to the vocabulary (Devlin et al., "BERT", 2019).

    The output size is the size of the vocabulary.
    """

    follows_dtype = True

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, input_size)
        self.layer_norm = nn.LayerNorm(input_size, eps=1e-12)
        self.decoder = nn.Linear(input_size, output_size)
        self.apply(initialize_linear)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits, (..., output_size)."""
        states = self.dense(hidden_states)
        with own_precision(self.dense.weight):
            logits: Tensor = self.decoder(self.layer_norm(F.gelu(states)))
        return logits
