"""New embeddings for the modality that a pretrained stack cannot embed."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from renaissance import Dropout

# Of BERT's norms; torch's default is 1e-5.
BERT_EPS = 1e-12


@attrs.frozen
class NewWeights:
    """Sizes and initialization of new embeddings for a stack.

    Attributes:
        hidden_size: Width of the stack.
        dropout: Dropout rate.
        std: Standard deviation of the weights.
    """

    hidden_size: int
    dropout: float
    std: float


class ImageEmbeddings(nn.Module):
    """Patches, class token and learned positions, for a stack made from a text model.

    As in ViLT (Kim et al., 2021), by default followed by a layer norm as in text models, so that
    both modalities enter the stack at the same scale.

    Args:
        new: Width, dropout and initialization.
        image_size: Side of the images, pixels; a multiple of the patch size.
        patch_size: Side of the patches, pixels.
        has_norm: Whether there is a layer norm.

    Attributes:
        grid: Height and width of an image in patches.
        num_tokens: Patches and the class token.
    """

    def __init__(
        self, new: NewWeights, image_size: int, patch_size: int, has_norm: bool = True
    ) -> None:
        super().__init__()
        self.grid = image_size // patch_size, image_size // patch_size
        self.num_tokens = self.grid[0] * self.grid[1] + 1
        self.projection = nn.Conv2d(3, new.hidden_size, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, new.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, self.num_tokens, new.hidden_size))
        self.norm = nn.LayerNorm(new.hidden_size) if has_norm else nn.Identity()
        self.dropout = Dropout(new.dropout)
        for weight in (self.projection.weight, self.class_token, self.position_embeddings):
            nn.init.trunc_normal_(weight, std=new.std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed images: (images, 3, height, width) to (images, tokens, hidden), class first."""
        patches = self.projection(pixel_values).flatten(2).transpose(1, 2)
        class_tokens = self.class_token.expand(patches.shape[0], -1, -1)
        states = torch.cat([class_tokens, patches], dim=1) + self.position_embeddings
        embedded: Tensor = self.dropout(self.norm(states))
        return embedded


class TextEmbeddings(nn.Module):
    """Words, learned positions and norm, as in BERT, for a stack made from an image model.

    Args:
        new: Width, dropout and initialization.
        vocab_size: Size of the tokenizer's vocabulary.
        max_text_length: Length of the longest text, tokens.
    """

    def __init__(self, new: NewWeights, vocab_size: int, max_text_length: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, new.hidden_size)
        self.position_embeddings = nn.Embedding(max_text_length, new.hidden_size)
        self.norm = nn.LayerNorm(new.hidden_size, eps=BERT_EPS)
        self.dropout = Dropout(new.dropout)
        for table in (self.word_embeddings, self.position_embeddings):
            nn.init.trunc_normal_(table.weight, std=new.std)

    def take(self, weights: Mapping[str, Tensor], layer_norm_eps: float) -> None:
        """Take pretrained weights, if there are any, and the constant of their norm."""
        self.norm.eps = layer_norm_eps
        if weights:
            self.load_state_dict(weights)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed texts: (texts, tokens) int64 to (texts, tokens, hidden)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        embedded: Tensor = self.dropout(self.norm(states))
        return embedded
