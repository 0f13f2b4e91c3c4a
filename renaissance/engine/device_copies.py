"""Copies of micro-batches to the device, beside what the device computes."""

from collections.abc import Callable

import torch
from torch import Tensor

from renaissance.data.micro_batch import MicroBatch, map_tensors


class SideStreamCopies:
    """Copies to a CUDA device on a stream of its own.

    The host queues a micro-batch's work long before the device does it. On the stream of that work,
    a copy would begin when all work before it has ended; on one of its own, it begins at once.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: MicroBatch) -> MicroBatch:
        """Copy a micro-batch from pinned memory; what is queued from now on waits for the copy."""
        with torch.cuda.stream(self._stream):
            copied = batch.to(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)

        def note(tensor: Tensor) -> Tensor:
            # Or its memory, once free, might be written to by a copy while it is still read.
            tensor.record_stream(current)
            return tensor

        return map_tensors(note, copied)


def copier(device: torch.device) -> Callable[[MicroBatch], MicroBatch]:
    """Return what copies micro-batches to a device."""
    if device.type == "cuda":
        return SideStreamCopies(device)
    return lambda batch: batch.to(device)
