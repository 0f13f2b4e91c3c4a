"""Hugging Face configs: read from a checkpoint or an architecture's defaults, and overridden."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from renaissance import CheckpointError, SpecError, did_you_mean
from renaissance.builtin.encoders.huggingface.reasons import reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Keys that the run spec sets elsewhere, once for the whole model.
SET_BY_DATA = {"image_size": "data.image_size"}
# More than any model has. Building a million takes hours, even without values.
MAX_LAYERS = 1000


def is_local(checkpoint: str) -> bool:
    """Return whether a checkpoint is a folder on this machine."""
    # Unlike pathlib's, it is false, not an error, for a text that is too long to be a path.
    return os.path.isdir(checkpoint)


def read_config(where: str, checkpoint: str | None, architecture: str | None) -> PreTrainedConfig:
    """Read the config of a checkpoint, or make the default one of an architecture.

    Raises:
        SpecError: If the architecture is unknown.
        CheckpointError: If the checkpoint is missing or of an unknown model.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    if checkpoint is not None:
        try:
            return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        # Damaged files raise all kinds of errors.
        except Exception as error:
            raise unreadable(where, checkpoint, error) from error
    if architecture not in CONFIG_MAPPING:
        known = list(CONFIG_MAPPING)
        raise SpecError(
            f"{where}: architecture: got {architecture!r}, expected a model_type of the "
            f"installed transformers, such as 'bert' or 'vit'"
            f"{did_you_mean(architecture, known)}"
        )
    try:
        return CONFIG_MAPPING[architecture]()
    # Some families check their own defaults, and refuse them.
    except Exception as error:
        raise SpecError(
            f"{where}: architecture: {architecture!r} has no valid default config "
            f"({reason_of(error)}); name a checkpoint, whose config.json says what is needed"
        ) from error


def integer_of(config: PreTrainedConfig, name: str) -> int | None:
    """Return the value of a key; None if it is absent, not an integer, or differs by layer."""
    try:
        value = getattr(config, name, None)
    # Not an AttributeError, which the default would be for.
    except Exception:
        return None
    return value if isinstance(value, int) else None


def set_vocab_size(config: PreTrainedConfig, vocab_size: int) -> None:
    """Set the number of words, without padding if that is a word of the family's own tokenizer."""
    config.vocab_size = vocab_size
    padding_id = integer_of(config, "pad_token_id")
    if padding_id is not None and padding_id >= vocab_size:
        config.pad_token_id = None


def override_config(
    where: str, config: PreTrainedConfig, overrides: Mapping[str, object]
) -> PreTrainedConfig:
    """Return the config with some keys replaced.

    Raises:
        SpecError: If a key is unknown or set elsewhere, or a value is invalid.
    """
    from transformers import PreTrainedConfig

    if not overrides:
        return _with_few_layers(where, config)
    family = config.model_type
    names = _field_names(type(config))
    # The fields that all configs share are about outputs and labels, not about the encoder.
    family_names = names - _field_names(PreTrainedConfig)
    synonyms = {key: name for key, name in config.attribute_map.items() if name in family_names}
    known = sorted(family_names | set(synonyms))
    faults = []
    for key in overrides:
        if key in SET_BY_DATA:
            faults.append(f"{where}: config.{key}: is {SET_BY_DATA[key]}; set it there")
        elif key not in known:
            faults.append(
                f"{where}: config.{key}: the config of {family!r} has no such key"
                f"{did_you_mean(key, known)}"
            )
    if faults:
        raise SpecError(*faults)
    # Build a new config from the fields, since its other attributes are derived from them.
    values = {key: value for key, value in config.to_dict().items() if key in names}
    values |= {synonyms.get(key, key): value for key, value in overrides.items()}
    try:
        config = type(config)(**values)
    # The library rejects values with errors of many classes.
    except Exception as error:
        raise SpecError(
            f"{where}: config: refused by the {family!r} config: {reason_of(error)}"
        ) from error
    return _with_few_layers(where, config)


def _with_few_layers(where: str, config: PreTrainedConfig) -> PreTrainedConfig:
    num_layers = integer_of(config, "num_hidden_layers")
    if num_layers is not None and num_layers > MAX_LAYERS:
        raise SpecError(
            f"{where}: config: num_hidden_layers: got {num_layers:,}, expected at most "
            f"{MAX_LAYERS:,}"
        )
    return config


def _field_names(config_class: type[PreTrainedConfig]) -> set[str]:
    return {field.name for field in fields(config_class) if not field.name.startswith("_")}


def unreadable(where: str, checkpoint: str, error: Exception) -> CheckpointError:
    """Return the error for a checkpoint that cannot be read."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    if is_local(checkpoint):
        return CheckpointError(
            f"{where}: checkpoint: the folder '{checkpoint}' cannot be loaded: {reason}; expected "
            "config.json and model.safetensors as save_pretrained writes them"
        )
    return CheckpointError(
        f"{where}: checkpoint: '{checkpoint}' is not a local folder (looked for "
        f"{Path(checkpoint).absolute()}) and could not be fetched from the hub: {reason}; "
        "check the spelling, or, without network access, download the model elsewhere and give its "
        "folder"
    )
