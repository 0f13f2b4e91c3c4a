"""Fusion by co-attention, as in METER (Dou et al., 2022)."""

from torch import Tensor, nn

from renaissance import TokenUse
from renaissance.builtin.fusions.attention import Attention, FeedForward
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.stack import FusionLayer, StackedFusion
from renaissance.builtin.fusions.streams import Stream


class CoAttention(StackedFusion):
    """Each modality has its own stack, whose layers also attend to the other modality.

    A layer is self-attention, cross-attention to the other modality's input to the layer, and
    feed-forward (Dou et al., "An Empirical Study of Training End-to-End
    Vision-and-Language Transformers", 2022).
    """

    def __init__(self, options: StackOptions) -> None:
        super().__init__(options, [CoAttentionLayer(options) for _ in range(options.num_layers)])


class CoAttentionLayer(FusionLayer):
    """One layer, with a stream for text and a stream for images."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.text_stream = _Stream(options)
        self.image_stream = _Stream(options)

    def forward(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run both streams, each on the states with which both modalities entered the layer."""
        return (
            None if text_use == "none" else self.text_stream(text, image, text_use),
            None if image_use == "none" else self.image_stream(image, text, image_use),
        )


class _Stream(nn.Module):
    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.self_attention = Attention(options)
        self.cross_attention = Attention(options)
        self.feed_forward = FeedForward(options)

    def forward(self, tokens: Stream, other: Stream, use: TokenUse) -> Tensor:
        # Tokens that are not read serve as keys and values here, but need no queries.
        read = tokens.select(use)
        read = read._replace(states=self.self_attention(read, tokens))
        output: Tensor = self.feed_forward(self.cross_attention(read, other))
        return output
