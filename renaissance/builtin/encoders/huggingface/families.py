"""Which Hugging Face families can be text or image encoders, and why others cannot.

Only what the library declares is asked here: which class a config belongs to, and what it reads.
Whether a text model sees the whole text is asked of the model itself, in `text_probe`.
"""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, cast

from renaissance import PluginError
from renaissance.builtin.encoders.huggingface.building import ModelClass
from renaissance.builtin.encoders.huggingface.image_input import IMAGE_INPUTS, PATCH_INPUTS
from renaissance.builtin.encoders.huggingface.reasons import missing_library

if TYPE_CHECKING:
    # Importing it takes a second, and listing plugins does without.
    from transformers import PreTrainedConfig

TEXT_REMEDY = "use a bidirectional text encoder such as BERT, RoBERTa, ELECTRA or DistilBERT"
IMAGE_REMEDY = "use an image model such as ViT, DeiT, BEiT, DINOv2, Swin, CLIP, ResNet or ConvNeXt"
# Where the config of a whole model keeps those of its parts.
TEXT_PART = "text_config"
IMAGE_PARTS = ("vision_config", "image_config")


def is_image_config(config: PreTrainedConfig) -> bool:
    """Return whether a config belongs to a model that reads images, or that has such a part."""
    return _image_part(config) is not None or _main_input(base_class(config)) in IMAGE_INPUTS


def text_config(where: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of a text model; of a model of several modalities, that of its text part.

    Raises:
        PluginError: If the model reads no text, or has no part that reads text alone.
    """
    from transformers import PreTrainedConfig

    family = config.model_type
    part = getattr(config, TEXT_PART, None)
    if isinstance(part, PreTrainedConfig) and _image_part(config) is not None:
        return part
    if _image_part(config) is not None:
        raise PluginError(
            f"{where}: {family!r} is a model of several modalities, and its config names no part "
            f"that reads text alone; {TEXT_REMEDY}"
        )
    if is_image_config(config):
        raise PluginError(
            f"{where}: {family!r} is an image model and reads no text; {TEXT_REMEDY} (image "
            "models go to 'hf-image')"
        )
    return config


def image_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of an image model; of a model of several modalities, of its image part."""
    return _image_part(config) or config


def text_model_class(where: str, config: PreTrainedConfig) -> ModelClass:
    """Return the class of a text encoder; of an encoder-decoder, that of its encoder half.

    Raises:
        PluginError: If the family has no such class, or does not read text.
    """
    family = config.model_type
    if config.is_encoder_decoder:
        from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING

        half = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None)
        if half is None:
            raise PluginError(
                f"{where}: {family!r} is an encoder-decoder, whose output states belong to the "
                "decoder, and the installed transformers has no class for its encoder half alone; "
                f"{TEXT_REMEDY}, or the encoder half of T5"
            )
        return cast(ModelClass, half)
    model_class = _single_class(where, config, TEXT_REMEDY)
    if _main_input(model_class) != "input_ids":
        raise PluginError(
            f"{where}: {family!r} reads {_main_input(model_class)!r} and no text; {TEXT_REMEDY}"
        )
    return model_class


def image_model_class(where: str, config: PreTrainedConfig) -> ModelClass:
    """Return the class of an image encoder.

    Raises:
        PluginError: If the family has no such class, or does not read images.
    """
    model_class = _single_class(where, config, IMAGE_REMEDY)
    parameters = signature(model_class.forward).parameters
    others = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in ("self", *IMAGE_INPUTS, *PATCH_INPUTS)
    ]
    if _main_input(model_class) not in IMAGE_INPUTS or others:
        reads = "reads no images"
        if "pixel_values" in parameters:
            reads = "reads images only together with other inputs"
            reads += f" ({', '.join(others)})" if others else ""
        raise PluginError(
            f"{where}: {config.model_type!r} {reads}; {IMAGE_REMEDY} (text models go to 'hf-text')"
        )
    return model_class


def _image_part(config: PreTrainedConfig) -> PreTrainedConfig | None:
    from transformers import PreTrainedConfig

    for name in IMAGE_PARTS:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            return part
    return None


def base_class(config: PreTrainedConfig) -> ModelClass | None:
    """Return the class of the model that a config belongs to; None if there is none."""
    import transformers
    from transformers import MODEL_MAPPING

    try:
        model_class = MODEL_MAPPING.get(type(config), None)
    # Of some families, the library names a class that it does not have.
    except ValueError:
        model_class = None
    if model_class is None:
        # Of a model of several modalities, the library maps only some parts to their classes.
        name = type(config).__name__.removesuffix("Config") + "Model"
        model_class = getattr(transformers, name, None) or _unlisted_class(config, name)
    return model_class if isinstance(model_class, type) else None


def _unlisted_class(config: PreTrainedConfig, name: str) -> object:
    """Return a class that stands beside a config, but is not public, such as BridgeTower's."""
    module = type(config).__module__.replace(".configuration_", ".modeling_")
    # A config outside the library has no such module beside it.
    if not module.startswith("transformers.models."):
        return None
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


def _single_class(where: str, config: PreTrainedConfig, remedy: str) -> ModelClass:
    model_class = base_class(config)
    if model_class is None:
        raise PluginError(
            f"{where}: the installed transformers has no single base model for "
            f"{config.model_type!r} that could be loaded alone; {remedy}"
        )
    try:
        # A class that needs a library which is not installed raises when it is touched.
        signature(model_class.forward)
    except ImportError as error:
        raise missing_library(where, config.model_type, error) from error
    return model_class


def _main_input(model_class: ModelClass | None) -> str | None:
    """Return the name of what a model reads first; None without a class that can be used."""
    if model_class is None:
        return None
    try:
        names = [name for name in signature(model_class.forward).parameters if name != "self"]
        declared: str = model_class.main_input_name
    except ImportError:
        return None
    # Many classes inherit "input_ids" and take something else.
    return declared if declared in names else names[0]
