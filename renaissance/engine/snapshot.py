"""What a checkpoint holds, copied at one step, so that training goes on while it is written."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from renaissance.engine.tensors import optimizer_tensors, to_host, without_aliases


@attrs.frozen
class Snapshot:
    """The content of a checkpoint, in the host's memory.

    Attributes:
        model: Parameters and buffers, tied ones by their first name only.
        optimizer: The optimizer's state; None to leave it out.
        optimizer_type: Name of its class.
        state: How far the run is, JSON.
        spec_text: The resolved spec, TOML.
        window: The figures of the log window that the checkpoint cuts short.
        copied: Fires when the tensors have arrived from a CUDA device; None for other devices.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] | None
    optimizer_type: str
    state: str
    spec_text: str
    window: Mapping[str, Tensor]
    copied: torch.cuda.Event | None

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
        """Copy a network and its optimizer.

        On a CUDA device, the copy is queued behind the step, and the next step behind the copy.
        """
        tensors = without_aliases(model.state_dict())
        states = None if optimizer is None else optimizer_tensors(model, optimizer)
        on_cuda = any(tensor.is_cuda for tensor in tensors.values())
        copied = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
        snapshot = Snapshot(
            model={name: to_host(tensor) for name, tensor in tensors.items()},
            optimizer=None if states is None else {n: to_host(t) for n, t in states.items()},
            optimizer_type=type(optimizer).__name__,
            state=state,
            spec_text=spec_text,
            window=window,
            copied=copied,
        )
        if copied is not None:
            copied.record()
        return snapshot
