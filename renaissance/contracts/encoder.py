"""The contract of encoders."""

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from torch import Tensor, nn

from renaissance.contracts.component import Component
from renaissance.contracts.packing import Packing
from renaissance.contracts.tokens import Modality, Summary, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@attrs.frozen
class EncoderContext:
    """What an encoder may need to know about the run.

    Attributes:
        image_size: Side of the square images, pixels.
        max_text_length: Length of the longest text, tokens, special ones included.
        vocab_size: 1 plus the tokenizer's largest token id.
        load_weights: False where only the model's shapes matter (in `renaissance check`, or in a
            run that is about to load a checkpoint), so pretrained weights need not be read.
        separator_id: Id of the token that separates two texts: the second begins after its first
            occurrence. None if the tokenizer gives both texts the same type.
        saved: Folder in which `save_config` has written, if the run folder has one; what is there
            takes the place of what the options name.
        starts_with_class: Whether texts begin with a class token.
    """

    image_size: int
    max_text_length: int
    vocab_size: int
    load_weights: bool = True
    separator_id: int | None = None
    saved: Path | None = None
    starts_with_class: bool = True


@attrs.frozen
class PretrainedContrast:
    """How the pretrained model that an encoder comes from compares texts with images.

    Attributes:
        projection_size: Size of the compared vectors.
        scale: What their cosines are multiplied by; None if it is not known.
        bias: What is then added; None if the model adds nothing.
        checkpoint: Hub id or folder that its weights come from; None if they are random.
        has_projection_bias: Whether the linear layer that projects a summary has a bias.
        norm_eps: Constant of the layer norm of a summary before it is projected; None if there is
            no such norm.
        weights: `projection.weight`, and `projection.bias`, `norm.weight` and `norm.bias` if there
            are such; empty if they are not read, or if the model projects in another way.
    """

    projection_size: int
    scale: float | None = None
    bias: float | None = None
    checkpoint: str | None = None
    has_projection_bias: bool = attrs.field(default=False, eq=False)
    norm_eps: float | None = attrs.field(default=None, eq=False)
    weights: Mapping[str, Tensor] = attrs.field(factory=dict, eq=False)


class Encoder(nn.Module, Component, ABC):
    """Turns texts, images or both into token states.

    `modalities` says which. An encoder of both is a joint encoder: its `encode_text` and
    `encode_image` only embed, and `encode_joint` runs one stack over both.

    Attributes:
        hidden_size: Width of the token states that it returns.
        text_summary: Where the summary of a text is: "first" if its first token sees the others,
            such as a class token; "eos" if only its last does, as in a causal model; "mean"
            otherwise.
        image_summary: Where that of an image is.
        contrast: How the model that it comes from compares texts with images, which `itc` starts
            from; None if it does not.
        token_types: Pretrained embeddings of text, first image and second image, (3, hidden), with
            which a one-tower model begins; None if they are new.
        weights_source: Where its weights come from, in words, for `renaissance check`.
        follows_dtype: Whether it computes in the dtype of its parameters, embedding tables apart,
            and returns it. In training with `train.precision = "bf16"`, it is then given bf16
            copies of them and bf16 input; see `train.residual`. Else it runs under autocast.
    """

    modalities: ClassVar[frozenset[Modality]]
    hidden_size: int
    text_summary: Summary = "first"
    image_summary: Summary = "first"
    contrast: PretrainedContrast | None = None
    token_types: Tensor | None = None
    weights_source: str = "random"
    follows_dtype: bool = False

    @classmethod
    def checkpoint_of(cls, options: Any) -> str | None:
        """Return the hub id or folder that these options load weights from, if any.

        By default a run takes its tokenizer and image normalization from there, too.
        """
        return None

    @classmethod
    def save_config(cls, options: Any, folder: Path) -> None:
        """Write what building the encoder reads besides its options, such as a config.json.

        The run folder keeps it, so that a trained model can be built without the hub. Parameters
        are in checkpoints. By default, nothing is written.

        Args:
            options: The encoder's options.
            folder: An empty folder; `EncoderContext.saved` names it later.
        """

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) texts.

        Args:
            input_ids: Token ids, (texts, tokens), int64.
            attention_mask: True where real, (texts, tokens), bool.
        """
        raise TypeError(f"{type(self).__name__} takes no text")

    def encode_packed(self, input_ids: Tensor, attention_mask: Tensor, packing: Packing) -> Tokens:
        """Encode texts without computing padding, if the encoder can; called in training.

        An override must agree with `encode_text` on every real token. By default, it is called.

        Args:
            input_ids: Token ids, (texts, tokens), int64.
            attention_mask: True where real, (texts, tokens), bool.
            packing: Where the real tokens stand, if texts are put one after the other.
        """
        return self.encode_text(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) images.

        Args:
            pixel_values: Normalized pixels, (images, 3, height, width), float.
        """
        raise TypeError(f"{type(self).__name__} takes no images")

    def encode_joint(self, tokens: Tokens) -> Tokens:
        """Run the joint stack over embedded tokens of one or both modalities."""
        raise TypeError(f"{type(self).__name__} is not a joint encoder")

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Resize a tensor that was trained for another image size or text length.

        Called by `model.init_from` for tensors whose shape differs, mostly position tables.

        Args:
            name: Its name in this encoder's state dict.
            tensor: The tensor in the checkpoint.

        Returns:
            The tensor in this encoder's shape, or None if it cannot be resized.
        """
        return None

    def check_weights(self) -> None:
        """Check that the pretrained weights can be read, without reading them all.

        Called by `renaissance check`, where `EncoderContext.load_weights` is False.

        Raises:
            CheckpointError: If they cannot.
        """

    def transformers_model(self) -> "PreTrainedModel | None":
        """Return the Hugging Face model whose last hidden states are this encoder's output.

        `renaissance export` writes it as a folder that transformers loads. By default, there is
        none.
        """
        return None

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Recompute activations in the backward pass.

        Args:
            every_n_layers: 1 for those of all layers, 2 for those of every second one, and so on.
                What is not made of layers recomputes all or nothing.

        Raises:
            ValueError: If the encoder cannot.
        """
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")
