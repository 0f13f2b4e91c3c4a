"""Fusion with LXMERT's cross-modality layers (Tan and Bansal, 2019)."""

from torch import Tensor, nn

from renaissance import TokenUse
from renaissance.builtin.fusions.attention import Attention, FeedForward
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.stack import FusionLayer, StackedFusion
from renaissance.builtin.fusions.streams import Stream


class Lxmert(StackedFusion):
    """Both directions share one cross-attention; then each modality has its own layers.

    A layer is cross-attention with weights shared by both directions, then self-attention and
    feed-forward for each modality (Tan and Bansal, "LXMERT", 2019). Its outputs equal those of the
    cross-modality layers in transformers.
    """

    def __init__(self, options: StackOptions) -> None:
        super().__init__(options, [LxmertLayer(options) for _ in range(options.num_layers)])


class LxmertLayer(FusionLayer):
    """One cross-modality layer."""

    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.cross_attention = Attention(options)
        self.text_stream = _Stream(options)
        self.image_stream = _Stream(options)

    def forward(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Cross-attend, then run the stream of each modality that is read."""
        text_states, image_states = self._cross(text, image, text_use, image_use)
        return (
            None if text_states is None else self.text_stream(text_states, text, text_use),
            None if image_states is None else self.image_stream(image_states, image, image_use),
        )

    def _cross(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        # The self-attention that follows attends to all tokens of its modality. So if any token of
        # a modality is read, all its tokens are crossed; if none is, it only serves as context.
        attention = self.cross_attention
        if text_use == image_use == "none":
            return None, None
        if image_use == "none":
            return attention(text, image), None
        if text_use == "none":
            return None, attention(image, text)
        # The weights are shared, so each modality is projected once for both directions.
        text_query, text_key, text_value = attention.project(text)
        image_query, image_key, image_value = attention.project(image)
        return (
            attention.attend(text, text_query, image_key, image_value, image.bias),
            attention.attend(image, image_query, text_key, text_value, text.bias),
        )


class _Stream(nn.Module):
    def __init__(self, options: StackOptions) -> None:
        super().__init__()
        self.self_attention = Attention(options)
        self.feed_forward = FeedForward(options)

    def forward(self, states: Tensor, tokens: Stream, use: TokenUse) -> Tensor:
        crossed = tokens._replace(states=states)
        output: Tensor = self.feed_forward(self.self_attention(crossed.select(use), crossed))
        return output
