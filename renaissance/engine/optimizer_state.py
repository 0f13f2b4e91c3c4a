"""An optimizer's state by parameter and entry, as a checkpoint stores it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from renaissance.engine.shards import StoredTensors, position_in, row_range, sharded_like
from renaissance.engine.tensors import first_few, to_host, write_tensors
from renaissance.errors import CheckpointError


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state by "<parameter>/<entry>", independent of its groups' order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{entry}": torch.as_tensor(value)
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
        if value is not None
    }


def save_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write an optimizer's state.

    Raises:
        OSError: If it cannot be written.
    """
    tensors = {n: to_host(t) for n, t in optimizer_tensors(model, optimizer).items()}
    write_tensors(path, tensors, {"optimizer": type(optimizer).__name__})


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
    restore_optimizer(StoredTensors.of_file(path), model, optimizer)


def restore_optimizer(
    stored: StoredTensors, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Load an optimizer's state, of parameters that are sharded only the rows of this rank.

    Args:
        stored: The state.
        model: The model whose parameters the optimizer trains.
        optimizer: The optimizer.

    Raises:
        CheckpointError: As `load_optimizer`.
    """
    path = stored.source
    if stored.optimizer_type != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: this is the state of {stored.optimizer_type}, but the run now trains with "
            f"{type(optimizer).__name__}; restore optimizer.type, or choose another run.name and "
            f"model.init_from = '{path.parent}'"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
    saved = {key.rpartition("/")[0] for key in stored.shapes}
    # An optimizer without any state (SGD without momentum) has none to restore.
    differing = sorted(trained ^ saved) if saved else []
    if differing:
        raise CheckpointError(
            f"{path}: the parameters with optimizer state are not those that are trained now: "
            f"{first_few(differing)}; freeze the same modules and train the same objectives as the "
            "run that is resumed"
        )
    parameters = dict(model.named_parameters())
    states = {
        key: stored_for(parameters[key.rpartition("/")[0]], stored, key) for key in stored.shapes
    }
    set_optimizer_tensors(model, optimizer, states)


def stored_for(parameter: Tensor, stored: StoredTensors, name: str) -> Tensor:
    """Read a tensor that belongs to a parameter: whole, or this rank's rows if that is sharded."""
    shape = stored.shapes[name]
    position = position_in(parameter)
    if position is None or not shape:
        return stored.whole(name)
    rows = stored.rows(name, *row_range(shape[0], position)).to(parameter.device)
    return sharded_like(parameter, rows, shape)


def set_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Replace an optimizer's state by what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        # Fused optimizers keep their step count on the parameter's device.
        states.setdefault(name, {})[entry] = tensor.to(parameters[name].device)
    for name, entries in states.items():
        optimizer.state[parameters[name]] = entries
