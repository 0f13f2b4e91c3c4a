"""Which samples a rank reads, and the loader that reads them ahead of time."""

import signal
import traceback
from collections.abc import Iterable, Iterator

import attrs
import numpy as np
import torch
from torch.utils.data import DataLoader

from renaissance.data.collate import Collator, MicroBatch
from renaissance.data.order import SampleStream
from renaissance.errors import DataError, RunError, describe
from renaissance.spec.batch_plan import BatchPlan

# (epoch, index) of each sample of a micro-batch.
SampleKeys = list[tuple[int, int]]


class TrainingOrder:
    """The samples of each micro-batch of one rank, in the order of steps.

    The stream of samples depends on the seed alone, and rank r of R takes the r-th part of each
    global batch. So global batches are the same with any number of ranks.
    """

    def __init__(
        self, plan: BatchPlan, rank: int, stream: SampleStream, start: int, stop: int
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.stream = stream
        self.start = start
        self.stop = stop

    def __iter__(self) -> Iterator[SampleKeys]:
        for position in range(self.start, self.stop, self.plan.global_batch_size):
            share = self.plan.global_batch_size // self.plan.world_size
            first = position + self.rank * share
            for begin in range(first, first + share, self.plan.micro_batch_size):
                positions = range(begin, begin + self.plan.micro_batch_size)
                yield [self.stream.at(position) for position in positions]


def evaluation_order(
    num_samples: int, micro_batch_size: int, rank: int, world_size: int
) -> list[SampleKeys]:
    """Return a rank's micro-batches for one pass; over all ranks, each sample comes exactly once.

    Neighbours stay together, since they often share an image, which is then encoded once. The
    epoch is always 0, so that evaluations of a run are comparable.
    """
    starts = np.arange(0, num_samples, micro_batch_size)[rank::world_size]
    return [
        [(0, index) for index in range(start, min(start + micro_batch_size, num_samples))]
        for start in starts.tolist()
    ]


@attrs.frozen
class LoadFailure:
    """Why a worker could not make a micro-batch; raised again in the main process.

    Attributes:
        message: The message for the user.
        trace: The worker's traceback.
        is_data_error: False for a bug in a component.
    """

    message: str
    trace: str
    is_data_error: bool


class _Guarded:
    """Returns failures instead of raising them.

    An exception in a worker reaches the main process as a RuntimeError whose message is the
    worker's traceback, so its type and its message for the user would be lost.
    """

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __getitem__(self, keys: SampleKeys) -> MicroBatch | LoadFailure:
        try:
            return self._collator[keys]
        except Exception as error:
            is_data_error = isinstance(error, DataError)
            return LoadFailure(describe(error), traceback.format_exc(), is_data_error)


class MicroBatchLoader:
    """Micro-batches in a given order, read ahead by worker processes.

    Args:
        collator: Makes the micro-batches.
        order: The samples of each micro-batch.
        num_workers: Number of worker processes; 0 loads in this process.
        device: Device of the run; memory is pinned if it is a GPU.
    """

    def __init__(
        self,
        collator: Collator,
        order: Iterable[SampleKeys],
        num_workers: int,
        device: torch.device,
    ) -> None:
        self._loader: DataLoader[MicroBatch | LoadFailure] = DataLoader(
            _Guarded(collator),  # type: ignore[arg-type]
            sampler=order,
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
            RunError: If a component fails.
        """
        for micro_batch in self._loader:
            if isinstance(micro_batch, LoadFailure):
                kind = DataError if micro_batch.is_data_error else RunError
                raise kind(micro_batch.message) from RuntimeError(micro_batch.trace)
            yield micro_batch


def _start_worker(worker: int) -> None:
    # Ctrl-C and SIGTERM reach the whole process group; only the main process should react.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
