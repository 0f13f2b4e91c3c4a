"""The ranks of a run: who am I, and the few words that ranks exchange."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions have the process group of the moment of import as a default. Were it imported after
# the group is made, as DDP does, the group would outlive `Ranks.close`, and with it threads that a
# process must not leave with: one that still frees a tensor then aborts the interpreter.
import torch.distributed.nn.functional
from torch import Tensor

from renaissance.errors import RenaissanceError, RunError, describe

TIMEOUT = timedelta(minutes=30)

T = TypeVar("T")


def rank_of_process() -> int:
    """Return the rank that torchrun gave this process (0 without torchrun)."""
    return int(os.environ.get("RANK", "0"))


class Ranks:
    """All processes of the run.

    Counts and flags travel over gloo between CPUs, so that exchanging them never waits for the
    GPU; gradients travel over NCCL (gloo on CPU).

    Args:
        device_type: "auto", "cpu" or "cuda".
    """

    def __init__(self, device_type: str) -> None:
        self.rank = rank_of_process()
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if device_type == "cuda" and not torch.cuda.is_available():
            raise RunError(
                "train.device: 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'"
            )
        use_cuda = device_type != "cpu" and torch.cuda.is_available()
        if use_cuda and local_rank >= torch.cuda.device_count():
            raise RunError(
                f"rank {self.rank} wants GPU {local_rank}, but this machine has "
                f"{torch.cuda.device_count()}; start at most one process a GPU (--nproc-per-node)"
            )
        self.device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
        if use_cuda:
            torch.cuda.set_device(self.device)
        if self.world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and talks."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over all ranks (exact for integers below 2**53)."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum([0.0])

    def gather_text(self, text: str) -> list[str]:
        """Return every rank's text. Plain bytes travel, never pickled objects."""
        if self.world_size == 1:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        return [bytes(part.numpy()).decode().strip() for part in self._gather(data)]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return all ranks' rows one after the other, on the CPU.

        Args:
            rows: (rows, ...), any number of rows, alike on all ranks in type and further sizes.
        """
        rows = rows.detach().cpu()
        return rows if self.world_size == 1 else torch.cat(self._gather(rows))

    def _gather(self, rows: Tensor) -> list[Tensor]:
        """Return every rank's rows, of which there may be different numbers."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(rows)]))
        longest = max(int(size) for size in sizes)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.zeros_like(padded) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded)
        return [part[: int(size)] for part, size in zip(gathered, sizes, strict=True)]

    def on_all_ranks(self, function: Callable[[], T]) -> T:
        """Call a function that may fail on some ranks only; if it does, all ranks raise.

        Rank 0 raises with what failed, wherever that was; the others raise a `PeerError`, which
        is not printed. So the user reads one message, and no rank waits for another.

        Raises:
            RenaissanceError: If the function raised on any rank.
        """
        error: Exception | None = None
        result: T | None = None
        try:
            result = function()
        # Any failure at all must reach the ranks that would otherwise wait for this one.
        except Exception as caught:
            error = caught
        reports = self.gather_text(_report(error))
        failed = [rank for rank, report in enumerate(reports) if report]
        if not failed:
            return result  # type: ignore[return-value]
        if self.is_main and error is not None:
            raise error
        exit_code, _, message = reports[failed[0]].partition(" ")
        kind = EchoedError if self.is_main else PeerError
        raise kind(f"rank {failed[0]}: {message}", int(exit_code)) from error

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()


class EchoedError(RenaissanceError):
    """What failed on another rank, raised on rank 0, which talks to the user."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerError(EchoedError):
    """What rank 0 is told too; the other ranks leave in silence."""


def is_lost_peer(error: Exception) -> bool:
    """Say whether an error only tells that another rank has left, not why."""
    # gloo raises a plain RuntimeError.
    texts = ("Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or any(text in str(error) for text in texts)


def _report(error: Exception | None) -> str:
    """Return exit code and message in one text, empty where there is no error."""
    if error is None:
        return ""
    exit_code = error.exit_code if isinstance(error, RenaissanceError) else 1
    return f"{exit_code} {describe(error)}"
