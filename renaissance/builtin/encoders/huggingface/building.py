"""Making Hugging Face models: with random weights, or with those of a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from renaissance import CheckpointError, SpecError
from renaissance.builtin.encoders.huggingface.configs import unreadable


def build_model(where: str, config: PreTrainedConfig, model_class: type[Any]) -> PreTrainedModel:
    """Build a model with random weights.

    Raises:
        SpecError: If no model can be built with the config.
    """
    try:
        with _quiet():
            return AutoModel.from_config(config, **_arguments(model_class)).eval()
    # The library reports an odd config by whatever error it runs into.
    except Exception as error:
        raise SpecError(
            f"{where}: config: no {config.model_type!r} model can be built with it "
            f"({type(error).__name__}: {error}); mend the keys that you override"
        ) from error


def read_model(
    where: str, checkpoint: str, config: PreTrainedConfig, model_class: type[Any]
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a model with the weights of a checkpoint.

    Only safetensors files are read: the older format is a pickle, which may run code.

    Returns:
        The model, and the names of parameters and buffers that the checkpoint does not have.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or has tensors of other shapes.
    """
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                checkpoint,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                **_arguments(model_class),
            )
    except OSError as error:
        raise unreadable(where, checkpoint, error) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: checkpoint: the weights of '{checkpoint}' do not fit its own config.json: "
            f"{error}"
        ) from error
    return model, frozenset(info["missing_keys"])


def _arguments(model_class: type[Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False}
    # Encoders return token states, so the library's pooler would only hold parameters that
    # get no gradient.
    if "add_pooling_layer" in signature(model_class).parameters:
        arguments["add_pooling_layer"] = False
    # Asking for SDPA is an error where a family has none (convolutions, mostly).
    if model_class._supports_sdpa:
        arguments["attn_implementation"] = "sdpa"
    return arguments


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice and progress bars: what matters is raised as an error here."""
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
