"""No fusion, which makes a two-tower model a dual encoder."""

import attrs

from renaissance import Fusion, Tokens


class NoFusion(Fusion):
    """No fusion: a dual encoder, in which texts and images meet only in their similarity.

    The model then has no projections to a fusion width, token types or pooler either. Objectives
    that need fused pairs are refused; `itc` and objectives of one modality are not.
    """

    hidden_size = 0

    @attrs.frozen
    class Options:
        """`none` has no options."""

    def __init__(self, options: Options) -> None:
        super().__init__()

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Refuse: no model calls it."""
        raise TypeError("the fusion 'none' fuses nothing")
