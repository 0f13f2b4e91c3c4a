"""A Hugging Face text or image model as joint encoder."""

import attrs
import torch
from torch import Tensor

from renaissance import Encoder, EncoderContext, PluginError, SpecError, Tokens, option, positive
from renaissance.builtin.encoders.huggingface.dry_run import (
    Modality,
    dry_run,
    example_image,
    example_text,
)
from renaissance.builtin.encoders.huggingface.joint_embeddings import (
    ImageEmbeddings,
    NewWeights,
    TextEmbeddings,
)
from renaissance.builtin.encoders.huggingface.joint_stack import REMEDY, JointStack, take_stack
from renaissance.builtin.encoders.huggingface.positions import (
    resized_image_table,
    resized_text_table,
)
from renaissance.builtin.encoders.huggingface.pretrained import (
    PretrainedOptions,
    load_image_model,
    load_text_model,
    reads_images,
)
from renaissance.builtin.encoders.huggingface.segments import segment_argument
from renaissance.builtin.encoders.huggingface.sizes import check_patch_size, patch_grid

WHERE = "hf-joint"
DEFAULT_PATCH_SIZE = 16
DEFAULT_STD = 0.02
# Far above rounding, far below what a forgotten norm or a second embedding makes.
TOLERANCE = 1e-3


class HFJointEncoder(Encoder):
    """One stack over text and image tokens, made from a text model or from an image model.

    The model's own embeddings serve its own modality, new ones the other; then its layers run
    over both. Texts come first, images after them.

    Args:
        options: Which model.
        context: What to know of the run.

    Raises:
        RenaissanceError: If the model cannot be loaded, does not suit the run, or has layers that
            cannot run over both modalities.

    Attributes:
        weights_source: Where the weights come from, in words.
    """

    modalities = frozenset({"text", "image"})

    @attrs.frozen
    class Options(PretrainedOptions):
        """Options of hf-joint."""

        patch_size: int | None = option(
            None,
            help="Side of the image patches, pixels, for a text model; 16 where absent. An image "
            "model has its own.",
            validator=positive,
        )

    def __init__(self, options: Options, context: EncoderContext) -> None:
        super().__init__()
        is_image_model = reads_images(WHERE, options)
        modality: Modality = "image" if is_image_model else "text"
        model = (load_image_model if is_image_model else load_text_model)(WHERE, options, context)
        config = model.config
        self.weights_source = options.weights_source

        def run() -> Tensor:
            return dry_run(WHERE, model, modality, context)

        self.stack, expected = take_stack(WHERE, model, run)
        self.hidden_size = config.hidden_size
        # Without its layers, the model returns its embeddings.
        self.embedder = model
        self.separator_id = context.separator_id
        dropout = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.0))
        std = getattr(config, "initializer_range", DEFAULT_STD)
        new = NewWeights(config.hidden_size, dropout, std)
        self.text_embeddings: TextEmbeddings | None = None
        self.image_embeddings: ImageEmbeddings | None = None
        if is_image_model:
            _check_image_model(options, self.stack, context)
            self.text_embeddings = TextEmbeddings(new, context.vocab_size, context.max_text_length)
        else:
            patch_size = options.patch_size or DEFAULT_PATCH_SIZE
            check_patch_size(WHERE, patch_size, context.image_size)
            self.image_embeddings = ImageEmbeddings(new, context.image_size, patch_size)
        self.eval()
        self._check_equal(config.model_type, expected, modality, context)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Embed texts; see the base class."""
        if self.text_embeddings is not None:
            return Tokens(self.text_embeddings(input_ids), attention_mask)
        segments = segment_argument(
            self.embedder.config, input_ids, attention_mask, self.separator_id
        )
        states = self.embedder(input_ids=input_ids, **segments).last_hidden_state
        return Tokens(states, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Embed images; see the base class."""
        if self.image_embeddings is not None:
            states = self.image_embeddings(pixel_values)
        else:
            states = self.embedder(pixel_values=pixel_values).last_hidden_state
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def encode_joint(self, tokens: Tokens) -> Tokens:
        """Run the stack over embedded texts, images, or texts followed by images."""
        fused: Tokens = self.stack(tokens)
        return fused

    def fit_tensor(self, name: str, tensor: Tensor) -> Tensor | None:
        """Fit a position table of either modality; see the base class."""
        own = self.state_dict()[name]
        if self.image_embeddings is None and not name.startswith("text_embeddings."):
            return resized_image_table(name, tensor, own, patch_grid(self.embedder.config))
        if self.image_embeddings is not None and name.startswith("image_embeddings."):
            return resized_image_table(name, tensor, own, self.image_embeddings.grid)
        return resized_text_table(name, tensor, own)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward; see the base class."""
        self.stack.gradient_checkpointing = True

    def _check_equal(
        self, family: str, expected: Tensor, modality: Modality, context: EncoderContext
    ) -> None:
        """Check that, of the model's own modality, the stack makes what the whole model made.

        A family whose layers need more than states and a mask is refused here, and so is any
        change in a future release of the library.
        """
        try:
            with torch.no_grad(), torch.device("cpu"):
                if modality == "text":
                    tokens = self.encode_text(*example_text(context, expected.device))
                else:
                    tokens = self.encode_image(example_image(context, expected.device))
                found = self.encode_joint(tokens).hidden_states
            reason = "" if found.is_meta or _is_close(found, expected) else "other states come out"
        # Layers that lack an argument fail in whatever way they happen to.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason:
            raise PluginError(
                f"{WHERE}: {family!r} does not work when its layers are run one after the other "
                f"({reason}): they need more than states and a mask; {REMEDY}"
            )


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _check_image_model(
    options: HFJointEncoder.Options, stack: JointStack, context: EncoderContext
) -> None:
    faults = []
    if options.patch_size is not None:
        faults.append(
            f"{WHERE}: patch_size: got {options.patch_size}, but an image model has its own patch "
            "embeddings; leave it out, or with random weights set config.patch_size"
        )
    bias = stack.image_bias
    # The length of a sequence tells text alone from text and image.
    if bias is not None and context.max_text_length >= bias.num_image_tokens:
        faults.append(
            f"{WHERE}: data.max_text_length is {context.max_text_length}, but with relative "
            f"position biases texts must be shorter than an image, {bias.num_image_tokens} tokens; "
            "lower data.max_text_length or raise data.image_size"
        )
    if faults:
        raise SpecError(*faults)
