"""One tower: texts and images are embedded, then one stack attends over both."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from renaissance.contracts.batches import Pairs
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.features import Fused, ModelSizes
from renaissance.contracts.packing import Packing
from renaissance.contracts.pooler import Pooler
from renaissance.contracts.tokens import Role, Tokens
from renaissance.model.base import (
    VisionLanguageModel,
    add_types,
    new_token_types,
    pixel_dtype_of,
    token_type,
)


class OneTower(VisionLanguageModel):
    """A joint encoder, token types and a pooler; to fuse is to run the joint stack."""

    def __init__(self, encoder: Encoder, pooler: Pooler) -> None:
        super().__init__()
        self.encoder = encoder
        self.text_summary = encoder.text_summary
        self.image_summary = encoder.image_summary
        self.token_type_embeddings = new_token_types(encoder.hidden_size)
        if encoder.token_types is not None:
            with torch.no_grad():
                self.token_type_embeddings.weight.copy_(encoder.token_types)
        self.pooler = pooler
        self.sizes = ModelSizes(
            text=encoder.hidden_size,
            image=encoder.hidden_size,
            fused=encoder.hidden_size,
            pooled=pooler.output_size,
        )

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, packing: Packing | None = None
    ) -> Tokens:
        """Embed texts; the stack runs later, when pairs are fused."""
        return self.encoder.encode_text(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Embed images; the stack runs later, when pairs are fused."""
        return self.encoder.encode_image(pixel_values)

    @property
    def pixel_dtype(self) -> torch.dtype:
        """The dtype in which the encoder takes pixels."""
        return pixel_dtype_of(self.encoder)

    def fuse(self, text: Tokens, image: Tokens, requests: Sequence[Pairs]) -> list[Fused]:
        """Run the joint stack over all requested pairs at once."""
        typed = add_types(text, image, self.token_type_embeddings, requests)
        paired_text = typed.text.take(typed.text_rows)
        paired_image = typed.image.take(typed.image_rows)
        num_text_tokens = paired_text.hidden_states.shape[1]
        fused = self.encoder.encode_joint(_side_by_side(paired_text, paired_image))
        results = []
        start = 0
        for pairs in requests:
            rows = slice(start, start + pairs.text_rows.shape[0])
            # Parts are (pairs, text tokens + image tokens, ...).
            fused_text = _cut(fused, rows, slice(num_text_tokens))
            fused_image = _cut(fused, rows, slice(num_text_tokens, None))
            results.append(self._pool(pairs, fused_text, fused_image))
            start = rows.stop
        return results

    def text_features(self, text: Tokens) -> Tokens:
        """Run the joint stack over texts alone."""
        return self._alone(text, 0)

    def image_features(self, image: Tokens) -> Tokens:
        """Run the joint stack over images alone."""
        return self._alone(image, 1)

    def roles(self) -> Mapping[Role, Sequence[nn.Module]]:
        """Count token types and pooler, which are new, as fusion."""
        return {
            "encoder": [self.encoder],
            "fusion": [self.token_type_embeddings, self.pooler],
        }

    def parts(self) -> Mapping[str, nn.Module]:
        """Return the modules of the tower."""
        return dict(self.named_children())

    def _alone(self, tokens: Tokens, index: int) -> Tokens:
        states = tokens.hidden_states + token_type(self.token_type_embeddings, index, tokens)
        return self.encoder.encode_joint(tokens.with_states(states))


def _side_by_side(text: Tokens, image: Tokens) -> Tokens:
    states = torch.cat([text.hidden_states, image.hidden_states], dim=1)
    if not (text.has_mask or image.has_mask):
        return Tokens(states)
    return Tokens(states, torch.cat([text.attention_mask, image.attention_mask], dim=1))


def _cut(tokens: Tokens, rows: slice, positions: slice) -> Tokens:
    return tokens.map(lambda part: part[rows, positions])
