"""The contract of encoders."""

from abc import ABC
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn

from renaissance.contracts.component import Component
from renaissance.contracts.tokens import Modality, Tokens


@attrs.frozen
class EncoderContext:
    """What an encoder may need to know of the run.

    Attributes:
        image_size: Side of the square images, pixels.
        max_text_length: Longest text, tokens, special ones included.
        vocab_size: Size of the tokenizer's vocabulary.
        load_weights: False while only the shape of the model is wanted (`renaissance check`, or
            a run about to load a checkpoint): pretrained weights need not be read then.
        separator_id: The token after whose first occurrence a second text begins; None if the
            tokenizer gives both texts the same type.
    """

    image_size: int
    max_text_length: int
    vocab_size: int
    load_weights: bool = True
    separator_id: int | None = None


class Encoder(nn.Module, Component, ABC):
    """Turns text, images or both into token states.

    `modalities` says which. An encoder of both is a joint encoder: its `encode_text` and
    `encode_image` only embed, and `encode_joint` runs one stack over the two together.

    Attributes:
        hidden_size: Width of the token states it returns.
        weights_source: Where its weights come from, for `renaissance check`.
    """

    modalities: ClassVar[frozenset[Modality]]
    hidden_size: int
    weights_source: str = "random"

    @classmethod
    def checkpoint_of(cls, options: Any) -> str | None:
        """Return the hub id or folder that these options take weights from, if they do.

        A run takes its tokenizer, and the mean and standard deviation of images, from there.
        """
        return None

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) texts.

        Args:
            input_ids: Token ids, (texts, tokens), int64.
            attention_mask: True where real, (texts, tokens), bool.
        """
        raise TypeError(f"{type(self).__name__} takes no text")

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) images.

        Args:
            pixel_values: Normalized pixels, (images, 3, height, width).
        """
        raise TypeError(f"{type(self).__name__} takes no images")

    def encode_joint(self, tokens: Tokens) -> Tokens:
        """Run the joint stack over embedded tokens of one or both modalities."""
        raise TypeError(f"{type(self).__name__} is not a joint encoder")

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Fit a tensor of the same encoder, for other image sizes or text lengths, to this one.

        Called by `model.init_from` for tensors whose shape differs: position tables, mostly.

        Args:
            name: Its name in this encoder's state dict.
            tensor: As the checkpoint has it.

        Returns:
            The tensor in this encoder's shape, or None if it is of another model.
        """
        return None

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward. Encoders that cannot say so by raising ValueError."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")
