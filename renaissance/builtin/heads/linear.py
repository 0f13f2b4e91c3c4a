"""One linear layer."""

import attrs
from torch import Tensor, nn

from renaissance import Head, fraction, initialize_linear, option


class Linear(Head):
    """Dropout, then one linear layer."""

    follows_dtype = True

    @attrs.frozen
    class Options:
        """Options of the linear head."""

        dropout: float = option(0.0, help="Dropout of the input.", validator=fraction)

    def __init__(self, options: Options, input_size: int, output_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(options.dropout)
        self.decoder = nn.Linear(input_size, output_size)
        initialize_linear(self.decoder)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits, (..., output_size)."""
        logits: Tensor = self.decoder(self.dropout(hidden_states))
        return logits
