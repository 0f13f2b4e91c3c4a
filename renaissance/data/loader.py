"""Which samples a rank reads, and the loader that reads them ahead of time."""

import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch.utils.data import DataLoader

from renaissance.data.collate import Collator, MicroBatch
from renaissance.data.order import SampleStream
from renaissance.errors import DataError, RunError, SpecError, describe
from renaissance.spec.sections import TrainSection

Request = list[tuple[int, int]]


@attrs.frozen
class BatchPlan:
    """How a step's samples are divided among ranks and micro-batches.

    Attributes:
        global_batch_size: Samples a step.
        micro_batch_size: Samples that a rank sends through at once.
        grad_accum_steps: Micro-batches a rank and step.
        world_size: Number of ranks.
    """

    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int

    @staticmethod
    def of(section: TrainSection, world_size: int) -> "BatchPlan":
        """Work out the plan.

        Raises:
            SpecError: If the global batch does not divide.
        """
        total = section.global_batch_size
        if total % world_size:
            raise SpecError(
                f"train.global_batch_size: got {total}, which {world_size} ranks cannot share "
                f"equally; the nearest that they can: {_near(total, world_size)}"
            )
        share = total // world_size
        micro = section.micro_batch_size or share
        if share % micro:
            raise SpecError(
                f"train.micro_batch_size: got {micro}, but each of {world_size} ranks has "
                f"{total} / {world_size} = {share} samples a step, which is not a multiple; "
                f"use a divisor of {share}: {_divisors(share)}"
            )
        return BatchPlan(total, micro, share // micro, world_size)

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} samples a step = {self.micro_batch_size} (micro-batch) x "
            f"{self.grad_accum_steps} (accumulation) x {self.world_size} (ranks)"
        )


class TrainingOrder:
    """Requests of one rank, endless: micro-batches in the order of steps.

    The stream of samples is a function of the seed alone; rank r of R takes the r-th part of each
    global batch. So any number of ranks sees the same global batches.
    """

    def __init__(
        self, plan: BatchPlan, rank: int, stream: SampleStream, start: int, stop: int
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.stream = stream
        self.start = start
        self.stop = stop

    def __iter__(self) -> Iterator[Request]:
        for position in range(self.start, self.stop, self.plan.global_batch_size):
            share = self.plan.global_batch_size // self.plan.world_size
            first = position + self.rank * share
            for begin in range(first, first + share, self.plan.micro_batch_size):
                positions = range(begin, begin + self.plan.micro_batch_size)
                yield [self.stream.at(position) for position in positions]


def evaluation_order(
    num_samples: int, micro_batch_size: int, rank: int, world_size: int
) -> list[Request]:
    """Return a rank's requests for one pass over all samples, each exactly once over all ranks.

    Neighbours stay together, since they often share an image, which is then encoded once. The
    epoch is always 0, so that evaluations of one run can be compared.
    """
    starts = np.arange(0, num_samples, micro_batch_size)[rank::world_size]
    return [
        [(0, index) for index in range(start, min(start + micro_batch_size, num_samples))]
        for start in starts.tolist()
    ]


@attrs.frozen
class LoadFailure:
    """Why a worker could not make a micro-batch; raised where the run can act on it.

    Attributes:
        message: What to tell the user.
        trace: Where it was raised.
        is_data_error: False for a defect of a component.
    """

    message: str
    trace: str
    is_data_error: bool


class _Guarded:
    """Returns failures instead of raising them: a raised error would reach the main process
    without its type and with the worker's traceback for a message.
    """

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __getitem__(self, request: Request) -> MicroBatch | LoadFailure:
        try:
            return self._collator[request]
        except Exception as error:
            is_data_error = isinstance(error, DataError)
            return LoadFailure(describe(error), traceback.format_exc(), is_data_error)


class MicroBatchLoader:
    """Micro-batches in the order of the requests, read ahead by worker processes.

    Args:
        collator: Makes the micro-batches.
        requests: Which samples each of them holds.
        num_workers: Worker processes; 0 reads in this process.
        device: Pins memory where this is a GPU.
    """

    def __init__(
        self, collator: Collator, requests: Any, num_workers: int, device: torch.device
    ) -> None:
        self._loader: DataLoader[MicroBatch | LoadFailure] = DataLoader(
            _Guarded(collator),  # type: ignore[arg-type]
            sampler=requests,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=_start_worker,
            prefetch_factor=4 if num_workers else None,
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield micro-batches.

        Raises:
            DataError: If a record cannot be read.
            RunError: If a component fails over it.
        """
        for micro_batch in self._loader:
            if isinstance(micro_batch, LoadFailure):
                kind = DataError if micro_batch.is_data_error else RunError
                raise kind(micro_batch.message) from RuntimeError(micro_batch.trace)
            yield micro_batch


def _start_worker(worker: int) -> None:
    # Ctrl-C and SIGTERM reach the whole process group; the main process decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _near(total: int, world_size: int) -> str:
    below = total // world_size * world_size
    candidates: Sequence[int] = (below, below + world_size) if below else (world_size,)
    return ", ".join(map(str, candidates))


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
