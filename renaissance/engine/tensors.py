"""Tensors by name, as a checkpoint stores them: tied ones once, optimizer state by parameter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from renaissance.errors import CheckpointError

MAX_NAMED = 5


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors


def aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Find tied tensors: several names of the same memory.

    Returns:
        The first name of each tied tensor, by every further name.
    """
    first_names: dict[tuple[int, int, int], str] = {}
    first_name_of = {}
    for name, tensor in tensors.items():
        # Not the address of the data, which is the same for all tensors on the meta device.
        storage = tensor.untyped_storage()._cdata
        key = (storage, int(tensor.storage_offset()), tensor.numel())
        if tensor.numel() and key in first_names:
            first_name_of[name] = first_names[key]
        else:
            first_names[key] = name
    return first_name_of


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, tied ones by their first name only: safetensors rejects the rest."""
    tied = aliases(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in tied}


def save_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write an optimizer's state by "<parameter>/<entry>", independent of its groups' order.

    Raises:
        OSError: If it cannot be written.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {
        f"{names[id(parameter)]}/{entry}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
        if value is not None
    }
    save_file(tensors, path, metadata={"optimizer": type(optimizer).__name__})


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_optimizer` wrote.

    Args:
        path: The file.
        model: The model whose parameters the optimizer trains.
        optimizer: The optimizer.

    Raises:
        CheckpointError: If the state is not of this optimizer, or not of exactly the parameters
            that it trains.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(path).items():
        name, _, entry = key.rpartition("/")
        states.setdefault(name, {})[entry] = tensor
    with safe_open(path, "pt") as file:
        saved_type = (file.metadata() or {}).get("optimizer", "an unknown optimizer")
    if saved_type != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: this is the state of {saved_type}, but the run now trains with "
            f"{type(optimizer).__name__}; restore optimizer.type, or choose another run.name and "
            f"model.init_from = '{path.parent}'"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    # An optimizer without any state (SGD without momentum) has none to restore.
    differing = sorted(set(trained) ^ set(states)) if states else []
    if differing:
        raise CheckpointError(
            f"{path}: the parameters with optimizer state are not those that are trained now: "
            f"{first_few(differing)}; freeze the same modules and train the same objectives as the "
            "run that is resumed"
        )
    for name, entries in states.items():
        parameter = trained[name]
        # Fused optimizers keep their step count on the parameter's device.
        optimizer.state[parameter] = {
            entry: tensor.to(parameter.device) for entry, tensor in entries.items()
        }


def first_few(entries: Sequence[str]) -> str:
    """Join the first entries of a list for a message, and say how many more there are."""
    num_more = len(entries) - MAX_NAMED
    more = [f"and {num_more} more"] if num_more > 0 else []
    return "; ".join([*entries[:MAX_NAMED], *more])
