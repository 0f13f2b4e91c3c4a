"""Fusion by merged attention, one stack over both modalities (METER, Dou et al., 2022)."""

import torch
from torch import Tensor

from renaissance import Tokens, TokenUse, attention_bias, compute_dtype
from renaissance.builtin.fusions.attention import Attention, FeedForward
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.stack import FusionLayer, StackedFusion
from renaissance.builtin.fusions.streams import Stream


class MergedAttention(StackedFusion):
    """One stack of transformer layers over the concatenated text and image tokens.

    This is what METER calls merged attention (Dou et al., 2022). It has at most half the parameters
    of co-attention.
    """

    # Text and image tokens are one sequence. To take the padding out of it and put it in again, at
    # each attention, copies all image tokens, too: more bytes than the operations are worth.
    skips_padding = False

    def __init__(self, options: StackOptions) -> None:
        super().__init__(options, [MergedLayer(options) for _ in range(options.num_layers)])

    def streams(self, text: Tokens, image: Tokens) -> tuple[Stream, Stream]:
        """Return the streams; that of text has the bias of text and image tokens side by side."""
        bias = None
        if text.has_mask or image.has_mask:
            mask = torch.cat([text.attention_mask, image.attention_mask], dim=1)
            bias = attention_bias(mask, compute_dtype(text.hidden_states))
        return Stream(text.hidden_states, bias), Stream(image.hidden_states, None)


class MergedLayer(FusionLayer):
    """One transformer layer over the joint sequence."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.self_attention = Attention(options)
        self.feed_forward = FeedForward(options)

    def forward(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the layer over text and image tokens together."""
        merged = Stream(torch.cat([text.states, image.states], dim=1), text.bias)
        # Only tokens that are read need queries; all serve as keys and values.
        queries = [
            tokens.select(use).states
            for tokens, use in ((text, text_use), (image, image_use))
            if use != "none"
        ]
        if not queries:
            return None, None
        is_whole = text_use == image_use == "all"
        # The same tensor, so that attention projects query, key and value in one product.
        read = merged if is_whole else Stream(torch.cat(queries, dim=1), None)
        states = self.feed_forward(self.self_attention(read, merged))
        parts = iter(states.split([part.shape[1] for part in queries], dim=1))
        return (
            None if text_use == "none" else next(parts),
            None if image_use == "none" else next(parts),
        )
