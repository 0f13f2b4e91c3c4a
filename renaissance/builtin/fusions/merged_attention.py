"""Fusion by merged attention: one stack over both modalities (METER, Dou et al., 2022)."""

import torch
from torch import Tensor

from renaissance import Tokens, TokenUse
from renaissance.builtin.fusions.attention import Attention, FeedForward
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.stack import FusionLayer, StackedFusion, select


class MergedAttention(StackedFusion):
    """Text and image tokens form one sequence, through one stack of transformer layers.

    The variant of METER that its paper calls merged attention (Dou et al., 2022); half the
    parameters of co-attention, or fewer.
    """

    def __init__(self, options: StackOptions) -> None:
        super().__init__(options, [MergedLayer(options) for _ in range(options.num_layers)])


class MergedLayer(FusionLayer):
    """One transformer layer over the joint sequence."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.self_attention = Attention(options)
        self.feed_forward = FeedForward(options)

    def forward(
        self, text: Tokens, image: Tokens, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """See the base class."""
        merged = Tokens(*(torch.cat(parts, dim=1) for parts in zip(text, image, strict=True)))
        asking = [
            select(tokens.hidden_states, read)
            for tokens, read in ((text, text_use), (image, image_use))
            if read != "none"
        ]
        if not asking:
            return None, None
        whole = text_use == image_use == "all"
        states = merged.hidden_states if whole else torch.cat(asking, dim=1)
        states = self.feed_forward(self.self_attention(states, merged))
        parts = iter(states.split([part.shape[1] for part in asking], dim=1))
        return (
            None if text_use == "none" else next(parts),
            None if image_use == "none" else next(parts),
        )
