"""Building Hugging Face models with random weights or with those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from renaissance import CheckpointError, Dropout, SpecError
from renaissance.builtin.encoders.huggingface.configs import unreadable
from renaissance.builtin.encoders.huggingface.reasons import missing_library, reason_of
from renaissance.builtin.encoders.huggingface.weight_files import check_weight_files
from renaissance.builtin.encoders.huggingface.weights import check_weights

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

# transformers has no type for its model classes; PreTrainedModel lacks the private attributes.
ModelClass: TypeAlias = type[Any]


def build_model(where: str, config: PreTrainedConfig, model_class: ModelClass) -> PreTrainedModel:
    """Build a model with random weights.

    Raises:
        SpecError: If no model can be built with the config.
        Exception: Any other error, on the meta device, if the model wants values.
    """
    try:
        with _quiet():
            model = _with_attention(model_class, partial(model_class._from_config, config))
            return _with_fast_dropout(model).eval()
    except ImportError as error:
        raise missing_library(where, config.model_type, error) from error
    # The library does not validate configs: a bad one can raise any error.
    except Exception as error:
        if torch.get_default_device().type == "meta":
            raise  # Perhaps only for want of values; a caller can try again with some.
        raise SpecError(
            f"{where}: config: no {config.model_type!r} model can be built with it "
            f"({type(error).__name__}: {reason_of(error)}); fix the keys that you "
            "override, or name a checkpoint, whose config.json fits"
        ) from error


def read_model(
    where: str,
    checkpoint: str,
    config: PreTrainedConfig,
    model_class: ModelClass,
    key_mapping: Mapping[str, str] | None = None,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a model with the weights of a checkpoint.

    Only safetensors files are read, since the older format is a pickle, which can run code.

    Args:
        where: Name of the encoder, with which messages begin.
        checkpoint: Hub id or local folder.
        config: The model's config.
        model_class: The model's class.
        key_mapping: What to replace in the names of the checkpoint's tensors, as regular
            expressions.

    Returns:
        The model, and the names of parameters and buffers that are missing from the checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be read, is damaged, or has tensors of other
            shapes.
    """
    check_weight_files(where, checkpoint)
    try:
        with _quiet():
            read = partial(
                model_class.from_pretrained,
                checkpoint,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                key_mapping=None if key_mapping is None else dict(key_mapping),
            )
            model, info = _with_attention(model_class, read)
    except ImportError as error:
        raise missing_library(where, config.model_type, error) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: checkpoint: the weights of '{checkpoint}' do not fit its own config.json: "
            f"{reason_of(error)}"
        ) from error
    # Damaged files raise all kinds of errors.
    except Exception as error:
        raise unreadable(where, checkpoint, error) from error
    check_weights(where, checkpoint, model)
    return _with_fast_dropout(model), frozenset(info["missing_keys"])


def _with_attention(model_class: ModelClass, make: Callable[..., Any]) -> Any:
    """Make a model with fused attention, or with plain attention where parts of it have no other.

    Requesting SDPA is an error for families without it, mostly convolutional ones. Without any
    request, a config.json may name a repository whose kernels are downloaded and run.
    """
    arguments = _arguments(model_class)
    if model_class._supports_sdpa:
        try:
            return make(**arguments, attn_implementation="sdpa")
        except ValueError as error:
            # What the whole supports, its backbone may not.
            if "scaled_dot_product_attention" not in str(error):
                raise
    return make(**arguments, attn_implementation="eager")


def _with_fast_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Put this project's dropout, which is the same but fast on a CPU, in place of PyTorch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    return model


def _arguments(model_class: ModelClass) -> dict[str, Any]:
    arguments: dict[str, Any] = {"dtype": torch.float32}
    # Encoders return token states, so the parameters of the library's pooler would be unused.
    if "add_pooling_layer" in signature(model_class).parameters:
        arguments["add_pooling_layer"] = False
    return arguments


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's warnings and progress bars: what matters is raised as an error."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_progress_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_progress_bar:
            logging.enable_progress_bar()
