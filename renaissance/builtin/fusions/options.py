"""Options that the built-in fusions share."""

import attrs

from renaissance import fraction, option, positive

# More than any model has. Building a million takes hours, even without values.
MAX_LAYERS = 1000


def _divides_hidden_size(
    instance: "StackOptions", attribute: "attrs.Attribute[int]", value: int
) -> None:
    positive(instance, attribute, value)
    if instance.hidden_size % value:
        raise ValueError(f"got {value}, expected a divisor of hidden_size ({instance.hidden_size})")


def _is_number_of_layers(
    instance: "StackOptions", attribute: "attrs.Attribute[int]", value: int
) -> None:
    positive(instance, attribute, value)
    if value > MAX_LAYERS:
        raise ValueError(f"got {value:,}, expected at most {MAX_LAYERS:,}")


@attrs.frozen
class StackOptions:
    """Options of a fusion made of transformer layers."""

    hidden_size: int = option(
        256, help="Width of the fused tokens, of both modalities.", validator=positive
    )
    num_layers: int = option(6, help="Number of layers.", validator=_is_number_of_layers)
    num_heads: int = option(
        4, help="Attention heads; a divisor of hidden_size.", validator=_divides_hidden_size
    )
    mlp_ratio: float = option(
        4.0,
        help="Width of the feed-forward layer, as a multiple of hidden_size.",
        validator=positive,
    )
    dropout: float = option(0.1, help="Dropout of hidden states.", validator=fraction)
    attention_dropout: float = option(
        0.0,
        help="Dropout of attention probabilities. Above 0, attention takes longer on a CPU.",
        validator=fraction,
    )

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward layer."""
        return int(self.hidden_size * self.mlp_ratio)
