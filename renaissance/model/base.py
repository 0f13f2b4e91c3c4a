"""The interface of both architectures: encode texts, encode images, fuse pairs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from renaissance.contracts.batches import Pairs
from renaissance.contracts.encoder import Encoder, PretrainedContrast
from renaissance.contracts.features import Fused, ModelSizes
from renaissance.contracts.packing import Packing
from renaissance.contracts.pooler import Pooler
from renaissance.contracts.tokens import Role, Summary, Tokens, TokenUse, summarize
from renaissance.model.depth import depths_of, layers_of

# Rows of the token type embedding: text, first image, and second image for tasks with two.
NUM_TOKEN_TYPES = 3


class VisionLanguageModel(nn.Module, ABC):
    """A model that encodes each text and each image once, then fuses pairs of them.

    Attributes:
        sizes: Widths of its outputs.
        pooler: Pools fused pairs; a dual encoder has none.
        token_type_embeddings: Tell the modalities apart: text, first image, second image; a dual
            encoder has none.
        text_summary: Where the summary of a text is.
        image_summary: Where the summary of an image is.
        text_contrast: How the pretrained model of the text encoder compares texts with images.
        image_contrast: The same of the image encoder.
    """

    sizes: ModelSizes
    pooler: Pooler
    token_type_embeddings: nn.Embedding
    text_summary: Summary
    image_summary: Summary
    text_contrast: PretrainedContrast | None = None
    image_contrast: PretrainedContrast | None = None

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    @abstractmethod
    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, packing: Packing | None = None
    ) -> Tokens:
        """Encode texts: (texts, tokens) int64 and bool to (texts, tokens, hidden).

        Args:
            input_ids: Token ids.
            attention_mask: True where real.
            packing: How to compute real tokens only; None to compute padding, too.
        """

    @abstractmethod
    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode images: (images, 3, height, width) to (images, tokens, hidden)."""

    @property
    @abstractmethod
    def pixel_dtype(self) -> torch.dtype:
        """The dtype in which `encode_image` takes pixels: fp32, or that of bf16 copies in use."""

    @abstractmethod
    def fuse(self, text: Tokens, image: Tokens, requests: Sequence[Pairs]) -> list[Fused]:
        """Fuse all requested pairs in one call; each request gets its own slice.

        Args:
            text: Encoded text rows of the micro-batch.
            image: Encoded image rows of the micro-batch.
            requests: Which rows to pair, and which outputs are read.
        """

    def text_features(self, text: Tokens) -> Tokens:
        """Return the final states of texts alone, for objectives that read them unfused."""
        return text

    def image_features(self, image: Tokens) -> Tokens:
        """Return the final states of images alone."""
        return image

    @abstractmethod
    def roles(self) -> Mapping[Role, Sequence[nn.Module]]:
        """Return the modules of each role, for learning rate multipliers."""

    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """Return the parts by name, for reports."""

    def freeze(self, module: nn.Module) -> None:
        """Freeze a module: no gradient, and evaluation mode even in training."""
        module.requires_grad_(False)
        self._frozen.append(module.eval())

    def freeze_all_but(self, encoder: nn.Module, num_layers: int) -> None:
        """Freeze an encoder, except for its last layers and a norm above them.

        Raises:
            UnknownDepthError: If its layers cannot be told.
            ValueError: If it does not have more layers.
        """
        total = len(layers_of(encoder))
        if num_layers >= total:
            raise ValueError(f"it has {total} layers; expected at most {total - 1}")
        depths, _ = depths_of(encoder)
        last_frozen = total - num_layers
        for module in encoder.modules():
            own = [depths[id(parameter)] for parameter in module.parameters()]
            if own and max(own) <= last_frozen:
                self.freeze(module)
        for parameter in encoder.parameters():
            # Of modules that also hold layers, such as a class token beside them.
            if depths[id(parameter)] <= last_frozen:
                parameter.requires_grad_(False)

    def is_frozen(self, module: nn.Module) -> bool:
        """Return whether `freeze` was called on the module."""
        return any(module is frozen for frozen in self._frozen)

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """Set training mode, except on frozen modules, whose dropout stays off."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _pool(self, pairs: Pairs, text: Tokens | None, image: Tokens | None) -> Fused:
        return Fused(
            text=text if "text" in pairs.outputs else None,
            image=image if "image" in pairs.outputs else None,
            pooled=self.pooler(
                _for_pooler(text, self.pooler.text_use, self.text_summary),
                _for_pooler(image, self.pooler.image_use, self.image_summary),
            )
            if "pooled" in pairs.outputs
            else None,
        )


def pixel_dtype_of(encoder: Encoder) -> torch.dtype:
    """Return the dtype in which an image encoder, or a joint one, takes pixels."""
    dtypes = {p.dtype for p in encoder.parameters()} if encoder.follows_dtype else set()
    return torch.bfloat16 if torch.bfloat16 in dtypes else torch.float32


def _for_pooler(tokens: Tokens | None, use: TokenUse, summary: Summary) -> Tokens | None:
    if tokens is None or use == "none":
        return None
    if use == "first" and summary != "first":
        return Tokens(summarize(tokens, summary)[:, None])
    return tokens


def new_token_types(hidden_size: int) -> nn.Embedding:
    """Return token type embeddings, in which the second image's row is a copy of the first's.

    If it started random, it would have to be learned from the few tasks that use a second image.
    """
    embeddings = nn.Embedding(NUM_TOKEN_TYPES, hidden_size)
    nn.init.normal_(embeddings.weight, std=0.02)
    with torch.no_grad():
        embeddings.weight[2] = embeddings.weight[1]
    return embeddings


def token_type(token_types: nn.Embedding, index: int, tokens: Tokens) -> Tensor:
    """Return one token type embedding, (hidden,)."""
    # By the embedding itself, whose output may have another dtype than its table.
    row: Tensor = token_types(torch.full((), index, device=tokens.hidden_states.device))
    return row


@attrs.frozen
class TypedRows:
    """Texts and images with their token types, and the rows of all requested pairs.

    Attributes:
        text: (texts, tokens, hidden).
        image: (images, tokens, hidden); twice as many if some pairs have a second image.
        text_rows: Row of each pair's text, (pairs,), int64.
        image_rows: Row of each pair's image, (pairs,), int64.
    """

    text: Tokens
    image: Tokens
    text_rows: Tensor
    image_rows: Tensor


def add_types(
    text: Tokens, image: Tokens, token_types: nn.Embedding, requests: Sequence[Pairs]
) -> TypedRows:
    """Add the token types, before rows are repeated in pairs."""
    text_rows = torch.cat([pairs.text_rows for pairs in requests])
    image_rows = torch.cat([pairs.image_rows for pairs in requests])
    text_states = text.hidden_states + token_type(token_types, 0, text)
    image_states = image.hidden_states + token_type(token_types, 1, image)
    if any(pairs.image_types is not None for pairs in requests):
        image_types = torch.cat(
            [
                torch.ones_like(pairs.image_rows)
                if pairs.image_types is None
                else pairs.image_types
                for pairs in requests
            ]
        )
        image_rows = image_rows + (image_types - 1) * image_states.shape[0]
        second = image.hidden_states + token_type(token_types, 2, image)
        image_states = torch.cat([image_states, second])
        image = image.map(lambda part: torch.cat([part, part]))
    return TypedRows(
        text.with_states(text_states), image.with_states(image_states), text_rows, image_rows
    )
