"""A model of a few hundred parameters, to give objectives features."""

from typing import Any

import torch
from torch import Tensor, nn

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.contracts.pooler import Pooler
from renaissance.contracts.tokens import Tokens
from renaissance.model.two_tower import TwoTower
from renaissance.testing.randomness import global_state

HIDDEN_SIZE = 16
PATCH_SIZE = 16


class TinyText(Encoder):
    """Embeds tokens."""

    modalities = frozenset({"text"})
    text_summary = "mean"

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.hidden_size = HIDDEN_SIZE
        self.embedding = nn.Embedding(vocab_size, HIDDEN_SIZE)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Embed each token by itself."""
        return Tokens(self.embedding(input_ids), attention_mask)


class TinyImage(Encoder):
    """Embeds patches."""

    modalities = frozenset({"image"})
    image_summary = "mean"

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = HIDDEN_SIZE
        self.patches = nn.Conv2d(3, HIDDEN_SIZE, PATCH_SIZE, PATCH_SIZE)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Embed each patch by itself."""
        states = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return Tokens(states)


class TinyFusion(Fusion):
    """Adds the mean token of one modality to every token of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = HIDDEN_SIZE

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Add the mean tokens."""
        return (
            Tokens(text.hidden_states + mean_of(image)[:, None], text.attention_mask),
            Tokens(image.hidden_states + mean_of(text)[:, None], image.attention_mask),
        )


class TinyPooler(Pooler):
    """The mean tokens, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.output_size = 2 * HIDDEN_SIZE

    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Concatenate the mean tokens."""
        assert text is not None
        assert image is not None
        return torch.cat([mean_of(text), mean_of(image)], dim=-1).tanh()


def mean_of(tokens: Tokens) -> Tensor:
    """Return the mean of the real tokens: (rows, hidden)."""
    weights: Any = tokens.attention_mask[:, :, None].to(tokens.hidden_states.dtype)
    mean: Tensor = (tokens.hidden_states * weights).sum(1) / weights.sum(1)
    return mean


def tiny_model(vocab_size: int) -> TwoTower:
    """Return a two-tower model, the same every time."""
    with global_state(0):
        return TwoTower(TinyText(vocab_size), TinyImage(), TinyFusion(), TinyPooler())
