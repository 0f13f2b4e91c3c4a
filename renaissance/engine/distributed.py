"""The ranks of a run: which one this process is, and what they exchange besides gradients."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions take the process group at the time of import as a default argument. DDP imports it
# after the group is made; the group and its threads would then outlive `Ranks.close`, and a thread
# that still frees a tensor while the process exits aborts the interpreter.
if dist.is_available():
    import torch.distributed.nn.functional
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch import Tensor

from renaissance.engine.memory import keep_freed_memory
from renaissance.engine.messages import saying_if_it_takes
from renaissance.errors import EchoedError, PeerError, SpecError, describe, exit_code_of
from renaissance.launch import end_with_launcher, launch_of_process, name_of_process

TIMEOUT = timedelta(minutes=30)
# Seconds after which a rank says that it waits for the others to start.
WAITING = 60.0
# torch's caches keep meshes as long as the process lives, and meshes keep their groups.
_meshes: list["DeviceMesh"] = []

T = TypeVar("T")


def choose_device(
    device_type: str, rank: int, local_rank: int, world_size: int = 1
) -> torch.device:
    """Return the device of a process.

    Args:
        device_type: "auto", "cpu", "cuda" or "mps".
        rank: Its rank.
        local_rank: Its rank among those on the same machine.
        world_size: Number of ranks.

    Raises:
        SpecError: If there is no such device for this process.
    """
    if device_type == "cuda" and not torch.cuda.is_available():
        raise SpecError("train.device: 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'")
    if device_type == "mps":
        _check_mps(world_size)
        return torch.device("mps")
    if device_type == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise SpecError(
            f"rank {rank} needs GPU {local_rank}, but this machine has "
            f"{torch.cuda.device_count()} GPUs; start at most one process per GPU "
            "(--nproc-per-node)"
        )
    return torch.device("cuda", local_rank)


class Ranks:
    """All processes of the run, and which of them this one is.

    Counts and flags are exchanged over gloo between CPUs, which never waits for the GPU; gradients
    go over NCCL (gloo on CPU).

    Args:
        device_type: "auto", "cpu", "cuda" or "mps".

    Raises:
        SpecError: If there is no such device for this process.
        RenaissanceError: If the launcher's environment variables contradict each other.
    """

    def __init__(self, device_type: str) -> None:
        self.rank, self.world_size, local_rank = launch_of_process()
        end_with_launcher()
        self.device = choose_device(device_type, self.rank, local_rank, self.world_size)
        keep_freed_memory(self.device)
        use_cuda = self.device.type == "cuda"
        if use_cuda:
            torch.cuda.set_device(self.device)
        if self.world_size > 1 and not dist.is_available():
            raise SpecError(
                f"this torch is built without torch.distributed, which {self.world_size} ranks "
                "need; start one process, or install another build of torch"
            )
        if self.world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
            with saying_if_it_takes(WAITING, _who_is_awaited(self.rank, self.world_size)):
                dist.init_process_group(backend, timeout=TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def mesh_shape(self) -> tuple[int, ...]:
        """Return (ranks,), or (nodes, ranks per node) on several nodes; every rank must call it."""
        here = launch_of_process().local_rank
        local_ranks = [int(text) for text in self.gather_text(str(here))]
        num_nodes = local_ranks.count(0)
        size = self.world_size // num_nodes
        # Nodes with different numbers of ranks are no rectangle.
        is_even = size > 1 and local_ranks == [*range(size)] * num_nodes
        return (num_nodes, size) if num_nodes > 1 and is_even else (self.world_size,)

    def mesh(self) -> "DeviceMesh":
        """Return the ranks as a mesh of `mesh_shape`; every rank must call it."""
        shape = self.mesh_shape()
        names = ("nodes", "ranks")[-len(shape) :]
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        _meshes.append(mesh)
        return mesh

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up values over all ranks (exact for integers below 2**53)."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum([0.0])

    def from_main(self, make: Callable[[], str]) -> str:
        """Return the text that a function makes on rank 0; it is called there alone.

        Raises:
            RenaissanceError: On every rank, if it raised on rank 0.
        """
        text = self.on_all_ranks(lambda: make() if self.is_main else "")
        if self.world_size == 1:
            return text
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0)
        data = data if self.is_main else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return bytes(data.numpy()).decode().strip()

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0, which must have the same shapes and dtypes."""
        if self.world_size == 1:
            return
        for tensor in tensors:
            if not tensor.numel():
                continue
            # As bytes: gloo and NCCL each lack some dtypes.
            data = tensor.detach().contiguous().reshape(-1)
            dist.broadcast(data.view(torch.uint8), 0)
            if not self.is_main:
                with torch.no_grad():
                    tensor.copy_(data.view(tensor.shape))

    def gather_text(self, text: str) -> list[str]:
        """Return every rank's text, without pickling."""
        if self.world_size == 1:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        return [bytes(part.numpy()).decode().strip() for part in self._gather(data)]

    def union(self, numbers: Iterable[int]) -> set[int]:
        """Return the distinct numbers of all ranks."""
        texts = self.gather_text(json.dumps(sorted(numbers)))
        return {number for text in texts for number in json.loads(text)}

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, concatenated in the order of ranks, on the CPU.

        Args:
            rows: (rows, ...). The number of rows may differ between ranks; dtype and other sizes
                may not.
        """
        rows = rows.detach().cpu()
        return rows if self.world_size == 1 else torch.cat(self._gather(rows))

    def _gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows; ranks may have different numbers of them."""
        # all_gather takes equal shapes only, so rows are padded to the longest and cut again.
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(rows)]))
        longest = max(int(size) for size in sizes)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.zeros_like(padded) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded)
        return [part[: int(size)] for part, size in zip(gathered, sizes, strict=True)]

    def on_all_ranks(self, function: Callable[[], T]) -> T:
        """Call a function that may fail on only some ranks; if it does, all ranks raise.

        Rank 0 raises with the message of the failure, on whichever rank it was; the others raise a
        `PeerError`, which is not printed. So the user reads one message, and no rank waits for one
        that has failed.

        Raises:
            RenaissanceError: If the function raised on any rank.
        """
        error: Exception | None = None
        result: T | None = None
        try:
            result = function()
        # Any failure must reach the other ranks, which would otherwise wait for this one.
        except Exception as caught:
            error = caught
        reports = self.gather_text(_report(error))
        failed = [report for report in reports if report]
        if not failed:
            return result  # type: ignore[return-value]
        if self.is_main and error is not None:
            raise error
        exit_code, _, message = failed[0].partition(" ")
        kind = EchoedError if self.is_main else PeerError
        raise kind(message, int(exit_code)) from error

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_available() and dist.is_initialized():
            if _meshes:
                # What was sharded refers to itself in circles, and to the groups.
                gc.collect()
            while _meshes:
                _meshes.pop()._pg_registry.clear()
            dist.destroy_process_group()


def _who_is_awaited(rank: int, world_size: int) -> str:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return (
        f"rank {rank} waits for the other {world_size - 1} of {world_size} ranks at {where}, at "
        f"most {TIMEOUT.seconds // 60} minutes. Start them, or unset RANK and WORLD_SIZE if an "
        "earlier launch has left them in the environment"
    )


def _check_mps(world_size: int) -> None:
    if not torch.backends.mps.is_available():
        raise SpecError(
            "train.device: 'mps', but torch finds no Apple GPU; use 'auto', 'cuda' or 'cpu'"
        )
    if world_size > 1:
        raise SpecError(
            f"train.device: 'mps' is for one process, but there are {world_size}; start one, or "
            "use 'cpu'"
        )


def _report(error: Exception | None) -> str:
    """Return exit code, rank and message as one text, which is empty if there is no error."""
    if error is None:
        return ""
    return f"{exit_code_of(error)} {name_of_process()}: {describe(error)}"
