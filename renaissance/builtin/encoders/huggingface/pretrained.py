"""Hugging Face models as encoders: their common options, and loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from renaissance import CheckpointError, EncoderContext, PretrainedContrast, Summary, option
from renaissance.builtin.encoders.huggingface.attention import MaskForm
from renaissance.builtin.encoders.huggingface.building import build_model
from renaissance.builtin.encoders.huggingface.configs import (
    is_local,
    override_config,
    read_config,
    set_vocab_size,
)
from renaissance.builtin.encoders.huggingface.contrast import contrast_of
from renaissance.builtin.encoders.huggingface.dry_run import dry_run, unused_parameters
from renaissance.builtin.encoders.huggingface.families import (
    base_class,
    image_config,
    image_model_class,
    is_image_config,
    text_config,
    text_model_class,
)
from renaissance.builtin.encoders.huggingface.image_input import ImageForm, image_form
from renaissance.builtin.encoders.huggingface.positions import find_antialias, resize_positions
from renaissance.builtin.encoders.huggingface.sizes import (
    check_image_size,
    check_text_size,
    has_class_token,
    has_image_size,
    set_image_size,
)
from renaissance.builtin.encoders.huggingface.text_probe import probe_text
from renaissance.builtin.encoders.huggingface.weight_files import check_weight_files
from renaissance.builtin.encoders.huggingface.whole_model import read_part

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel


def _one_source(options: PretrainedOptions, attribute: object, checkpoint: str | None) -> None:
    if (checkpoint is None) == (options.architecture is None):
        actual = "neither" if checkpoint is None else "both"
        raise ValueError(
            f"got {actual} of checkpoint and architecture, expected exactly one: checkpoint is a "
            "hub id or local folder, architecture a Hugging Face model_type for random weights"
        )


def _random_or_dropout(
    options: PretrainedOptions, attribute: object, config: Mapping[str, object]
) -> None:
    # Only dropout and drop-path rates may differ from the checkpoint's: no weights depend on them.
    fixed = [key for key in config if "drop" not in key]
    if fixed and not options.has_random_weights:
        raise ValueError(
            f"got {', '.join(map(repr, fixed))} with pretrained weights, which were made for the "
            "checkpoint's own config; set random_init = true, or keep only dropout rates"
        )


@attrs.frozen
class PretrainedOptions:
    """Options of all encoders that are Hugging Face models."""

    checkpoint: str | None = option(
        None, help="Hub id or local folder of a Hugging Face model.", validator=_one_source
    )
    architecture: str | None = option(
        None,
        help="Hugging Face model_type, such as 'bert', for random weights without a checkpoint.",
    )
    random_init: bool = option(
        False, help="Use only the config of the checkpoint and start from random weights."
    )
    config: dict[str, Any] = option(
        factory=dict,
        help="Hugging Face config keys to override: any keys with random weights, only dropout "
        "rates with pretrained ones.",
        validator=_random_or_dropout,
    )

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are random rather than pretrained."""
        return self.random_init or self.architecture is not None

    @property
    def weights_source(self) -> str:
        """Where the weights come from, in words."""
        if self.architecture is not None:
            return f"random, architecture {self.architecture}"
        kind = "local folder" if is_local(str(self.checkpoint)) else "hub id"
        source = f"{kind} {self.checkpoint}"
        return f"random, config of {source}" if self.random_init else source

    def check_weights(self, where: str) -> None:
        """Check the weight files that these options name; errors as in `check_weight_files`."""
        if not self.has_random_weights:
            check_weight_files(where, str(self.checkpoint))


def save_config(where: str, options: PretrainedOptions, folder: Path) -> None:
    """Write the config of the model that the options name, before keys are overridden.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
    """
    read_config(where, options.checkpoint, options.architecture).save_pretrained(folder)


def config_of(where: str, options: PretrainedOptions, context: EncoderContext) -> PreTrainedConfig:
    """Return the config that the options name, or that a run folder has kept."""
    checkpoint = options.checkpoint if context.saved is None else str(context.saved)
    return read_config(where, checkpoint, options.architecture)


def reads_images(where: str, options: PretrainedOptions, context: EncoderContext) -> bool:
    """Return whether the options name an image model; errors as in `load_image_model`."""
    return is_image_config(config_of(where, options, context))


@attrs.frozen
class LoadedModel:
    """A model, and what its dry run told of it.

    Attributes:
        model: The model, in evaluation mode and float32.
        hidden_size: Width of its output.
        mask_form: What a text model takes as its attention mask.
        is_causal: Whether the tokens of a text do not see those after them.
        image_form: What an image model takes.
        image_summary: Where an image model's output has the summary of an image.
        contrast: How the whole model compares texts with images, if it does.
    """

    model: PreTrainedModel
    hidden_size: int
    mask_form: MaskForm = "plain"
    is_causal: bool = False
    image_form: ImageForm = "pixels"
    image_summary: Summary = "first"
    contrast: PretrainedContrast | None = None


def load_text_model(
    where: str, options: PretrainedOptions, context: EncoderContext, may_be_causal: bool = False
) -> LoadedModel:
    """Load a text model.

    For a model of several modalities, such as SigLIP, only the text part is loaded; for an
    encoder-decoder such as T5, only the encoder.

    Args:
        where: Name of the encoder, with which messages begin.
        options: The encoder's options.
        context: What to know about the run, whose texts must fit the model's positions and
            vocabulary.
        may_be_causal: Whether a model in one direction will do, if it summarizes a text, like
            CLIP's, in the token that ends it.

    Raises:
        PluginError: If the model cannot encode texts, each as a whole and by itself.
        SpecError: If an option is invalid, or the texts do not fit the model.
        CheckpointError: If the checkpoint is missing or incomplete.
    """
    whole = config_of(where, options, context)
    config = text_config(where, whole)
    model_class = text_model_class(where, config)
    if options.architecture is not None:
        set_vocab_size(config, context.vocab_size)
    config = override_config(where, config, options.config)
    found = probe_text(where, config, model_class, context, may_be_causal)
    if options.has_random_weights or not context.load_weights:
        model, missing = build_model(where, config, model_class), frozenset[str]()
    else:
        checkpoint = str(options.checkpoint)
        model, missing = read_part(where, checkpoint, config, model_class, whole)
    check_text_size(where, model, context)
    states = dry_run(where, model, "text", context, found.mask_form)
    _freeze_unused(where, model, states, missing, whole)
    contrast = contrast_of(whole, "text", _source(options), context.load_weights)
    return LoadedModel(model, states.shape[-1], found.mask_form, found.is_causal, contrast=contrast)


def load_image_model(
    where: str, options: PretrainedOptions, context: EncoderContext
) -> LoadedModel:
    """Load an image model for images of `context.image_size`.

    For a model of several modalities, such as CLIP, only the image part is loaded.

    Args:
        where: Name of the encoder, with which messages begin.
        options: The encoder's options.
        context: What to know about the run.

    Raises:
        PluginError: If the model is not an image encoder.
        SpecError: If an option is invalid, or the model does not support the image size.
        CheckpointError: If the checkpoint is missing or incomplete.
    """
    whole = config_of(where, options, context)
    config = image_config(whole)
    model_class = image_model_class(where, config)
    config = override_config(where, config, options.config)
    check_image_size(where, config, context.image_size)
    has_other_size = not has_image_size(config, context.image_size)
    antialias = False
    if has_other_size and not options.has_random_weights:
        antialias = find_antialias(where, config, model_class, context.image_size)
    if options.has_random_weights or not context.load_weights:
        set_image_size(config, context.image_size)
        model, missing = build_model(where, config, model_class), frozenset[str]()
    else:
        checkpoint = str(options.checkpoint)
        model, missing = read_part(where, checkpoint, config, model_class, whole)
        if has_other_size:
            model = resize_positions(where, model, context.image_size, antialias)
    states = dry_run(where, model, "image", context)
    _freeze_unused(where, model, states, missing, whole)
    # A feature map has its channels before its height and width.
    hidden_size = states.shape[1 if states.dim() == 4 else -1]
    has_class = has_class_token(model.config, states, context.image_size)
    summary: Summary = "first" if has_class else "mean"
    return LoadedModel(
        model,
        hidden_size,
        image_form=image_form(model),
        image_summary=summary,
        contrast=contrast_of(whole, "image", _source(options), context.load_weights),
    )


def _source(options: PretrainedOptions) -> str | None:
    """Return the checkpoint that weights come from; None if they are random."""
    if options.has_random_weights or options.checkpoint is None:
        return None
    # As a run records it, so that both encoders name it alike.
    is_folder = is_local(options.checkpoint)
    return str(Path(options.checkpoint).absolute()) if is_folder else options.checkpoint


def enable_checkpointing(model: PreTrainedModel, every_n_layers: int) -> None:
    """Recompute the activations of every n-th layer in the backward pass.

    Raises:
        ValueError: If the family does not support it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not model.supports_gradient_checkpointing:
        raise ValueError(
            f"{model.config.model_type!r} models have no gradient checkpointing; set "
            'train.gradient_checkpointing = "none"'
        )
    # The library renamed this method within version 5.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    # Not the library's own every_n_layers, which its older versions lack.
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index % every_n_layers == 0


def _freeze_unused(
    where: str,
    model: PreTrainedModel,
    states: Tensor,
    missing: frozenset[str],
    whole: PreTrainedConfig,
) -> None:
    """Freeze the parameters that the states do not depend on; the others must not be missing."""
    unused = unused_parameters(model, states)
    for parameter in unused.values():
        parameter.requires_grad_(False)
    needed = sorted(missing - set(unused))
    if needed and missing >= {name for name, _ in model.named_parameters()}:
        _check_is_whole(where, model, whole)
    if needed:
        names = ", ".join(needed[:5]) + (", ..." if len(needed) > 5 else "")
        raise CheckpointError(
            f"{where}: checkpoint: {len(needed)} of the weights that {model.config.model_type!r} "
            f"needs are missing: {names}; the file is incomplete, or of another architecture than "
            "its config.json says; download it again, or set random_init = true"
        )


def _check_is_whole(where: str, model: PreTrainedModel, whole: PreTrainedConfig) -> None:
    """Check that a checkpoint without a part's weights is not one of another part."""
    whole_class, saved_as = base_class(whole), whole.architectures
    if whole_class in (None, type(model)) or not saved_as or saved_as == [whole_class.__name__]:
        return
    raise CheckpointError(
        f"{where}: checkpoint: it was saved as {' and '.join(saved_as)}, without the weights that "
        f"{whole_class.__name__} has for {model.config.model_type!r}; take a checkpoint of "
        f"{whole_class.__name__}, or set random_init = true"
    )
