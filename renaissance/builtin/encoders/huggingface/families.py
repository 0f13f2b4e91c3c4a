"""Which Hugging Face families can be text or image encoders, and why others cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renaissance import PluginError
from renaissance.builtin.encoders.huggingface.building import ModelClass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TEXT_REMEDY = "use a bidirectional text encoder such as BERT, RoBERTa, ELECTRA or DistilBERT"


def is_image_config(config: PreTrainedConfig) -> bool:
    """Return whether a config belongs to a model that reads images, or that has such a part."""
    if hasattr(config, "vision_config"):
        return True
    from transformers import MODEL_MAPPING

    model_class = MODEL_MAPPING.get(type(config), None)
    return getattr(model_class, "main_input_name", None) == "pixel_values"


def text_model_class(where: str, config: PreTrainedConfig) -> ModelClass:
    """Return the class of a text encoder.

    Raises:
        PluginError: If the family does not read text, or reads it in one direction only.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    family = config.model_type
    if hasattr(config, "vision_config"):
        raise PluginError(
            f"{where}: {family!r} is a model of several modalities, whose text part sees only the "
            f"tokens before each token or needs the other parts; {_TEXT_REMEDY}"
        )
    if is_image_config(config):
        raise PluginError(
            f"{where}: {family!r} is an image model and reads no text; {_TEXT_REMEDY} (image "
            "models go to 'hf-image')"
        )
    if config.is_encoder_decoder:
        raise PluginError(
            f"{where}: {family!r} is an encoder-decoder, whose output states belong to the "
            f"decoder; {_TEXT_REMEDY}"
        )
    # Families with a masked language model attend in both directions.
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_decoder", False):
        raise PluginError(
            f"{where}: {family!r} is a decoder or not a text model: its tokens do not see those "
            f"after them; {_TEXT_REMEDY}"
        )
    return _model_class(where, config)


def image_model_class(where: str, config: PreTrainedConfig) -> ModelClass:
    """Return the class of an image encoder.

    Raises:
        PluginError: If the family does not read images.
    """
    if not is_image_config(config):
        raise PluginError(
            f"{where}: {config.model_type!r} reads no images; use an image model such as ViT, "
            "DeiT, BEiT, DINOv2, Swin, CLIP, ResNet or ConvNeXt (text models go to 'hf-text')"
        )
    if hasattr(config, "mask_ratio"):
        raise PluginError(
            f"{where}: {config.model_type!r} drops random patches whenever it encodes; load the "
            "same weights as a plain model, such as 'vit'"
        )
    return _model_class(where, config)


def _model_class(where: str, config: PreTrainedConfig) -> ModelClass:
    from transformers import MODEL_MAPPING

    model_class = MODEL_MAPPING.get(type(config), None)
    if not isinstance(model_class, type):
        raise PluginError(
            f"{where}: the installed transformers has no single base model for "
            f"{config.model_type!r}; use another family, such as 'bert' or 'vit'"
        )
    return model_class
