"""The weights of one part of a model of several modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from renaissance import CheckpointError
from renaissance.builtin.encoders.huggingface.building import ModelClass, build_model, read_model
from renaissance.builtin.encoders.huggingface.families import base_class

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel


def read_part(
    where: str,
    checkpoint: str,
    config: PreTrainedConfig,
    model_class: ModelClass,
    whole: PreTrainedConfig,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a model with the weights of a checkpoint, which may be of a whole that it is part of.

    Most classes of parts find their weights in a checkpoint of the whole. Of the others, such as
    AltCLIP's and BridgeTower's, the whole is loaded and the part taken out.

    Args:
        where: Name of the encoder, with which messages begin.
        checkpoint: Hub id or local folder.
        config: The part's config.
        model_class: The part's class.
        whole: The config of the checkpoint.

    Returns:
        The model, and the names of parameters and buffers that are missing from the checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be read, is damaged, or has tensors of other
            shapes.
    """
    model, missing = read_model(where, checkpoint, config, model_class)
    whole_class = base_class(whole)
    if not missing or whole_class in (None, model_class):
        return model, missing
    try:
        outer, missing_outside = read_model(where, checkpoint, whole, whole_class)
    # The whole may need what is not there, where the part needs only what is.
    except CheckpointError:
        return model, missing
    prefix = _prefix(model, outer)
    if prefix is None:
        return model, missing
    missing_inside = {name.removeprefix(prefix) for name in missing_outside}
    if len(missing_inside & missing) >= len(missing):
        return model, missing
    part = build_model(where, config, model_class)
    state = outer.state_dict()
    part.load_state_dict({name: state[prefix + name] for name in part.state_dict()})
    return part, frozenset(missing_inside & {*part.state_dict()})


def _prefix(part: PreTrainedModel, whole: PreTrainedModel) -> str | None:
    """Return what the names of the part's tensors begin with in the whole; None if not found."""
    tensors: dict[str, torch.Size] = {n: t.shape for n, t in part.state_dict().items()}
    state = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    for name, _ in whole.named_modules():
        prefix = f"{name}." if name else ""
        if all(state.get(prefix + inner) == shape for inner, shape in tensors.items()):
            return prefix
    return None
