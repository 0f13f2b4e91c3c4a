"""Two towers: a text encoder and an image encoder, followed by fusion."""

from collections.abc import Mapping, Sequence

from torch import nn

from renaissance.contracts.batches import Pairs
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.features import Fused, ModelSizes
from renaissance.contracts.fusion import FusedUse, Fusion
from renaissance.contracts.pooler import Pooler
from renaissance.contracts.tokens import Role, Summary, Tokens, TokenUse
from renaissance.initialization import initialize_linear
from renaissance.model.base import add_types, new_token_types
from renaissance.model.dual_encoder import DualEncoder


class TwoTower(DualEncoder):
    """A dual encoder, projections to the fusion width, token types, fusion, pooler."""

    def __init__(
        self, text_encoder: Encoder, image_encoder: Encoder, fusion: Fusion, pooler: Pooler
    ) -> None:
        super().__init__(text_encoder, image_encoder)
        self.text_projection = _projection(text_encoder.hidden_size, fusion.hidden_size)
        self.image_projection = _projection(image_encoder.hidden_size, fusion.hidden_size)
        self.token_type_embeddings = new_token_types(fusion.hidden_size)
        self.fusion = fusion
        self.pooler = pooler
        self.sizes = ModelSizes(
            text=text_encoder.hidden_size,
            image=image_encoder.hidden_size,
            fused=fusion.hidden_size,
            pooled=pooler.output_size,
        )

    def fuse(self, text: Tokens, image: Tokens, requests: Sequence[Pairs]) -> list[Fused]:
        """Project each row once, then fuse all requested pairs in one call."""
        # Projected before pairing, since a row may be in several pairs.
        text = text.with_states(self.text_projection(text.hidden_states))
        image = image.with_states(self.image_projection(image.hidden_states))
        typed = add_types(text, image, self.token_type_embeddings, requests)
        uses = [
            FusedUse(
                num_pairs=pairs.text_rows.shape[0],
                text=_use("text", self.pooler.text_use, self.text_summary, pairs),
                image=_use("image", self.pooler.image_use, self.image_summary, pairs),
                text_index=pairs.text_index,
            )
            for pairs in requests
        ]
        fused = self.fusion.fuse_rows(
            typed.text, typed.image, typed.text_rows, typed.image_rows, uses
        )
        return [self._pool(pairs, *tokens) for pairs, tokens in zip(requests, fused, strict=True)]

    def roles(self) -> Mapping[Role, Sequence[nn.Module]]:
        """Count everything after the two encoders as fusion."""
        fusion = [
            self.text_projection,
            self.image_projection,
            self.token_type_embeddings,
            self.fusion,
            self.pooler,
        ]
        return {"encoder": [self.text_encoder, self.image_encoder], "fusion": fusion}


def _use(modality: str, pooler_use: TokenUse, summary: Summary, pairs: Pairs) -> TokenUse:
    if modality in pairs.outputs:
        return "all"
    if "pooled" not in pairs.outputs:
        return "none"
    # A mean needs all tokens, and where the last one is differs from text to text.
    return "all" if pooler_use == "first" and summary != "first" else pooler_use


def _projection(input_size: int, output_size: int) -> nn.Linear:
    projection = nn.Linear(input_size, output_size)
    initialize_linear(projection)
    return projection
