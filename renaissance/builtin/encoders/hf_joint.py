"""A Hugging Face text or image model as a joint encoder."""

from pathlib import Path

import attrs
import torch
from torch import Tensor

from renaissance import (
    Encoder,
    EncoderContext,
    PluginError,
    SpecError,
    Tokens,
    option,
    own_precision,
    positive,
)
from renaissance.builtin.encoders.huggingface.dry_run import (
    NUM_EXAMPLE_TOKENS,
    Modality,
    dry_run,
    example_image,
    example_text,
)
from renaissance.builtin.encoders.huggingface.image_input import image_states
from renaissance.builtin.encoders.huggingface.joint_embeddings import (
    ImageEmbeddings,
    NewWeights,
    TextEmbeddings,
)
from renaissance.builtin.encoders.huggingface.joint_stack import REMEDY, JointStack, take_stack
from renaissance.builtin.encoders.huggingface.positions import (
    antialias_of,
    resized_image_table,
    resized_text_table,
)
from renaissance.builtin.encoders.huggingface.precision import FOLLOWING_FAMILIES, first_weight
from renaissance.builtin.encoders.huggingface.pretrained import (
    PretrainedOptions,
    config_of,
    load_image_model,
    load_text_model,
    reads_images,
    save_config,
)
from renaissance.builtin.encoders.huggingface.rotary import Window, local_layers
from renaissance.builtin.encoders.huggingface.segments import segment_argument
from renaissance.builtin.encoders.huggingface.sizes import check_patch_size, patch_grid
from renaissance.builtin.encoders.huggingface.vilt import FAMILY, Vilt, load_vilt

WHERE = "hf-joint"
DEFAULT_PATCH_SIZE = 16
DEFAULT_STD = 0.02
# Far above rounding errors, far below the effect of a missing norm or a second embedding.
TOLERANCE = 1e-3


class HFJointEncoder(Encoder):
    """One stack over text and image tokens, made from a text model or an image model.

    The model embeds its own modality, and new embeddings serve the other. Then its layers run over
    both: text tokens first, image tokens after them. ViLT embeds both.

    Args:
        options: Which model.
        context: What to know about the run.

    Raises:
        RenaissanceError: If the model cannot be loaded, does not support the run's sizes, or has
            layers that cannot run over both modalities.

    Attributes:
        weights_source: Where the weights come from, in words.
    """

    modalities = frozenset({"text", "image"})

    @attrs.frozen
    class Options(PretrainedOptions):
        """Options of hf-joint."""

        patch_size: int | None = option(
            None,
            help="Side of the image patches, pixels, for a text model; 16 by default. An image "
            "model has its own patch size.",
            validator=positive,
        )
        image_norm: bool = option(
            True,
            help="Whether embedded patches are normalized for a text model, as its own embeddings "
            "are; ViLT's are not. An image model has its own embeddings.",
        )

    @classmethod
    def checkpoint_of(cls, options: Options) -> str | None:
        """Return the checkpoint, which also determines tokenizer and normalization."""
        return options.checkpoint

    @classmethod
    def save_config(cls, options: Options, folder: Path) -> None:
        """Write the model's config.json, as it is before keys are overridden."""
        save_config(WHERE, options, folder)

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        vilt = self._vilt(options, context)
        is_image_model = vilt is not None or reads_images(WHERE, options, context)
        modality: Modality = "image" if is_image_model else "text"
        load = load_image_model if is_image_model else load_text_model
        loaded = load(WHERE, options, context) if vilt is None else vilt.vit
        model, config = loaded.model, loaded.model.config
        self.weights_source = options.weights_source
        self._options = options
        self.follows_dtype = config.model_type in FOLLOWING_FAMILIES

        local = local_layers(model)
        # A text that is longer than the window of local attention, where texts are.
        self._example_length = NUM_EXAMPLE_TOKENS if local is None else local[0] + 2

        def run() -> Tensor:
            mask_form = loaded.mask_form
            return dry_run(WHERE, model, modality, context, mask_form, self._example_length)

        self.stack, expected = take_stack(WHERE, model, run)
        self.hidden_size = loaded.hidden_size
        self.image_size = context.image_size
        self.text_summary = "first" if context.starts_with_class else "mean"
        # The new embeddings of a text model have a class token.
        self.image_summary = loaded.image_summary
        self.image_form = loaded.image_form
        # Without its layers, the model returns its embeddings.
        self.embedder = model
        self.separator_id = context.separator_id
        dropout = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.0))
        std = getattr(config, "initializer_range", DEFAULT_STD)
        new = NewWeights(self.hidden_size, dropout, std)
        self.text_embeddings: TextEmbeddings | None = None
        self.image_embeddings: ImageEmbeddings | None = None
        if is_image_model:
            _check_image_model(options, self.stack, context)
            vocab_size = context.vocab_size if vilt is None else vilt.vocab_size
            self.text_embeddings = TextEmbeddings(new, vocab_size, context.max_text_length)
            if vilt is not None:
                self.text_embeddings.take(vilt.text, vilt.layer_norm_eps)
                self.token_types = vilt.token_types
        else:
            patch_size = options.patch_size or DEFAULT_PATCH_SIZE
            check_patch_size(WHERE, patch_size, context.image_size)
            self.image_embeddings = ImageEmbeddings(
                new, context.image_size, patch_size, options.image_norm
            )
            if local is not None:
                self.stack.window = Window(*local, self.image_embeddings.num_tokens)
                _check_window(self.stack.window, config.model_type, context)
        self.eval()
        self._check_equal(config.model_type, expected, modality, context)

    @staticmethod
    def _vilt(options: Options, context: EncoderContext) -> Vilt | None:
        config = config_of(WHERE, options, context)
        is_vilt = config.model_type == FAMILY
        return load_vilt(WHERE, options, context, config) if is_vilt else None

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Embed texts, (texts, tokens) int64 to (texts, tokens, hidden)."""
        with own_precision(first_weight(self.stack)):
            if self.text_embeddings is not None:
                return Tokens(self.text_embeddings(input_ids), attention_mask)
            segments = segment_argument(
                self.embedder.config, input_ids, attention_mask, self.separator_id
            )
            states = self.embedder(input_ids=input_ids, **segments).last_hidden_state
        return Tokens(states, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Embed images, (images, 3, height, width) to (images, tokens, hidden)."""
        weight = first_weight(self.stack)
        pixel_values = pixel_values.to(weight.dtype)
        with own_precision(weight):
            if self.image_embeddings is not None:
                states = self.image_embeddings(pixel_values)
            else:
                states = image_states(self.embedder, pixel_values, self.image_form)
        return Tokens(states)

    def encode_joint(self, tokens: Tokens) -> Tokens:
        """Run the stack over embedded texts, embedded images, or texts followed by images."""
        with own_precision(first_weight(self.stack)):
            fused: Tokens = self.stack(tokens)
        return fused

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Resize a position table of either modality; None for any other tensor."""
        target = self.state_dict()[name]
        if self.image_embeddings is None and not name.startswith("text_embeddings."):
            grid = patch_grid(self.embedder.config)
            antialias = antialias_of(WHERE, self.embedder, self.image_size)
            return resized_image_table(name, tensor, target, grid, antialias)
        if self.image_embeddings is not None and name.startswith("image_embeddings."):
            return resized_image_table(name, tensor, target, self.image_embeddings.grid)
        return resized_text_table(name, tensor, target)

    def check_weights(self) -> None:
        """Check the checkpoint's weight files by their headers and sizes."""
        self._options.check_weights(WHERE)

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Recompute activations of layers in the backward pass."""
        self.stack.recomputed = range(0, len(self.stack.layers), every_n_layers)

    def _check_equal(
        self, family: str, expected: Tensor, modality: Modality, context: EncoderContext
    ) -> None:
        """Check that the stack reproduces the whole model's output for the model's own modality.

        This rejects families whose layers need more than states and a mask, and catches changes in
        future releases of the library.
        """
        num = self._example_length
        try:
            with torch.no_grad(), torch.device("cpu"):
                if modality == "text":
                    tokens = self.encode_text(*example_text(context, expected.device, num))
                else:
                    tokens = self.encode_image(example_image(context, expected.device))
                actual = self.encode_joint(tokens).hidden_states
            is_equal = actual.is_meta or _is_close(actual, expected)
            reason = "" if is_equal else "the output differs"
        # Layers that lack an argument can fail in any way.
        except Exception as error:
            if expected.is_meta:
                raise  # Perhaps only for want of values; a caller can try again with some.
            reason = f"{type(error).__name__}: {error}"
        if reason:
            raise PluginError(
                f"{WHERE}: {family!r} does not work when its layers are run one after the other "
                f"({reason}): they need more than states and a mask; {REMEDY}"
            )


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _check_image_model(
    options: HFJointEncoder.Options, stack: JointStack, context: EncoderContext
) -> None:
    faults = []
    if options.patch_size is not None:
        faults.append(
            f"{WHERE}: patch_size: got {options.patch_size}, but an image model has its own patch "
            "embeddings; leave it out, or with random weights set config.patch_size"
        )
    if not options.image_norm:
        faults.append(
            f"{WHERE}: image_norm: got false, but an image model has its own patch embeddings; "
            "leave it out"
        )
    # The stack tells text alone from text with an image by the length of the sequence.
    forms = {"relative position biases": stack.image_bias, "rotary positions": stack.rotary}
    for name, form in forms.items():
        if form is not None and context.max_text_length >= form.num_image_tokens:
            faults.append(_too_long(name, form.num_image_tokens, context))
    if faults:
        raise SpecError(*faults)


def _check_window(window: Window, family: str, context: EncoderContext) -> None:
    length, num_tokens = context.max_text_length, window.num_image_tokens
    if length > window.size + 1 and length >= num_tokens:
        raise SpecError(_too_long(f"local attention ({family!r})", num_tokens, context))


def _too_long(what: str, num_image_tokens: int, context: EncoderContext) -> str:
    return (
        f"{WHERE}: data.max_text_length is {context.max_text_length}, but with {what} texts must "
        f"be shorter than an image, {num_image_tokens} tokens; lower data.max_text_length or raise "
        "data.image_size"
    )
