"""What a checkpoint holds, copied at one step, so that training goes on while it is written."""

import json
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from renaissance.engine.optimizer_state import optimizer_tensors
from renaissance.engine.shards import Position, by_rows, index_of, own_part, position_of
from renaissance.engine.tensors import to_host, without_aliases


@attrs.frozen
class Snapshot:
    """The content of a checkpoint, in the host's memory: of a sharded network, this rank's part.

    Attributes:
        model: Parameters and buffers, tied ones by their first name only.
        optimizer: The optimizer's state; None to leave it out.
        optimizer_type: Name of its class.
        state: How far the run is, JSON.
        spec_text: The resolved spec, TOML.
        window: The figures of the log window that the checkpoint cuts short.
        copied: Fires when the tensors have arrived from a CUDA device; None for other devices.
        position: Which shard this is; None if it is the whole.
        index: Which shard has which rows of each tensor, JSON.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] | None
    optimizer_type: str
    state: str
    spec_text: str
    window: Mapping[str, Tensor]
    copied: torch.cuda.Event | None
    position: Position | None
    index: str

    def wait(self) -> None:
        """Wait until the tensors are there."""
        if self.copied is not None:
            self.copied.synchronize()

    @staticmethod
    def of(
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        state: str,
        spec_text: str,
        window: Mapping[str, Tensor],
    ) -> "Snapshot":
        """Copy a network and its optimizer; if they are sharded, every rank must call it.

        On a CUDA device, the copy is queued behind the step, and the next step behind the copy.
        """
        tensors = {n: by_rows(t) for n, t in without_aliases(model.state_dict()).items()}
        found = {} if optimizer is None else optimizer_tensors(model, optimizer)
        states = {name: by_rows(tensor) for name, tensor in found.items()}
        on_cuda = any(tensor.is_cuda for tensor in tensors.values())
        copied = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
        position, index = position_of(model), ""
        optimizer_type = type(optimizer).__name__
        if position is not None:
            kinds = {
                "optimizer_type": optimizer_type,
                "model": index_of(tensors, "model", position.count),
                "optimizer": index_of(states, "optimizer", position.count),
            }
            index = json.dumps(kinds)
            tensors, states = own_part(tensors, position), own_part(states, position)
        snapshot = Snapshot(
            model={name: to_host(tensor) for name, tensor in tensors.items()},
            optimizer=None if optimizer is None else {n: to_host(t) for n, t in states.items()},
            optimizer_type=optimizer_type,
            state=state,
            spec_text=spec_text,
            window=window,
            copied=copied,
            position=position,
            index=index,
        )
        if copied is not None:
            copied.record()
        return snapshot
