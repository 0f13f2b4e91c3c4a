"""Fusion by cross-attention from text to image, as in ALBEF and BLIP."""

from collections.abc import Sequence

from torch import Tensor

from renaissance import FusedUse, Tokens, TokenUse, own_precision
from renaissance.builtin.fusions.attention import Attention, FeedForward
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.stack import FusionLayer, StackedFusion, optional_mask
from renaissance.builtin.fusions.streams import Stream


class CrossAttention(StackedFusion):
    """Text attends to image tokens, which stay as they are.

    A layer is self-attention of the text, cross-attention to the image, and feed-forward (Li et
    al., "ALBEF", NeurIPS 2021; "BLIP", ICML 2022). Keys and values are computed once per layer and
    distinct image, for all texts that are paired with it. Image tokens come back as they were, so
    the pooler `single`, of text alone, sees all that is fused.
    """

    def __init__(self, options: StackOptions) -> None:
        super().__init__(options, [CrossAttentionLayer(options) for _ in range(options.num_layers)])

    def fuse_rows(
        self,
        text: Tokens,
        image: Tokens,
        text_rows: Tensor,
        image_rows: Tensor,
        uses: Sequence[FusedUse],
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Fuse pairs of rows; what depends on the image alone is computed once for each."""
        text = text.take(text_rows)
        mask = optional_mask(image)
        with own_precision(self._weight):
            text_stream, image_stream = self.streams(text, image)
            bias = image_stream.bias
            image_stream = Stream(
                image_stream.states, None if bias is None else bias[image_rows], image_rows
            )
            masks = optional_mask(text), None if mask is None else mask[image_rows]
            return self._fuse_streams(text_stream, image_stream, masks, uses)


class CrossAttentionLayer(FusionLayer):
    """One layer; only the text changes."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.self_attention = Attention(options)
        self.cross_attention = Attention(options)
        self.feed_forward = FeedForward(options)

    def forward(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the layer on the text."""
        image_states = None if image_use == "none" else image.select(image_use).states
        if text_use == "none":
            return None, image_states
        read = text.select(text_use)
        read = read._replace(states=self.self_attention(read, text))
        return self.feed_forward(self.cross_attention(read, image)), image_states
