"""Micro-batches, made ahead of time by worker processes.

Workers send what they make through pipes. Shared memory would need room in /dev/shm, of which a
container has 64 MB, and an open file per tensor; and who waits for a pipe notices at once that the
other end has died.
"""

import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import TypeAlias

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renaissance.data.collate import Collator
from renaissance.data.micro_batch import MicroBatch, map_leaves
from renaissance.data.order import SampleKeys
from renaissance.errors import DataError, RunError, describe
from renaissance.launch import STOP_SIGNALS

# Micro-batches that a worker is asked for ahead of time, if all workers' are no more than this.
NUM_AHEAD = 4
MAX_BYTES_AHEAD = 2 * 2**30
# Micro-batches that wait in the main process.
NUM_READY = 2
# Seconds between two looks at whether the run is to stop.
POLL = 0.2
# Seconds in which a killed process is gone.
PATIENCE = 5


# Forked workers have what this process has, such as plugins named by path. Elsewhere a fork is not
# safe or not possible, and the system's default is taken.
PROCESSES = multiprocessing.get_context("fork" if sys.platform == "linux" else None)


class StoppedWaitingError(RunError):
    """The run was asked to stop while it waited for data."""


@attrs.frozen
class LoadFailure:
    """Why a micro-batch could not be made; raised where the run can act on it.

    Attributes:
        message: What to tell the user.
        trace: Where it was raised.
        is_data_error: False for a defect of a component, or of the machine.
    """

    message: str
    trace: str = ""
    is_data_error: bool = False

    def error(self) -> Exception:
        """Return the error that this stands for."""
        error = DataError(self.message) if self.is_data_error else RunError(self.message)
        error.__cause__ = RuntimeError(self.trace) if self.trace else None
        return error


Made: TypeAlias = MicroBatch | LoadFailure


class MicroBatchLoader:
    """Micro-batches in a given order, made ahead of time by worker processes.

    Args:
        collator: Makes the micro-batches.
        order: Which samples each of them holds.
        num_workers: Worker processes; 0 makes them in this process.
        device: Pins memory where this is a GPU.
        is_stopping: Asked while data is awaited: whether to give up.
    """

    def __init__(
        self,
        collator: Collator,
        order: Iterable[SampleKeys],
        num_workers: int,
        device: torch.device,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._collator = collator
        self._order = order
        self._num_workers = num_workers
        self._pin = device.type == "cuda"
        self._is_stopping = is_stopping

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield micro-batches.

        Raises:
            DataError: If a record cannot be read.
            RunError: If a component fails over it, or a worker dies.
            StoppedWaitingError: If the run was asked to stop while it waited.
        """
        for made in self._made():
            if isinstance(made, LoadFailure):
                raise made.error()
            yield made

    def _made(self) -> Generator[Made]:
        if not self._num_workers:
            for keys in self._order:
                if self._is_stopping():
                    raise StoppedWaitingError("stopped while waiting for data")
                made = _make(self._collator, keys)
                yield made.pin_memory() if self._pin and isinstance(made, MicroBatch) else made
            return
        with _Workers(self._collator, self._order, self._num_workers, self._pin) as workers:
            yield from workers.collected(self._is_stopping)


def _make(collator: Collator, keys: SampleKeys) -> Made:
    try:
        return collator[keys]
    # A raised error would reach the main process without its type.
    except Exception as error:
        return LoadFailure(describe(error), traceback.format_exc(), isinstance(error, DataError))


@attrs.frozen
class _Packed:
    """A tensor as bytes: torch would send its own tensors through shared memory."""

    data: NDArray[np.uint8]
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> "_Packed":
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        return cls(data, tensor.dtype, tensor.shape)

    def unpacked(self) -> Tensor:
        return torch.from_numpy(self.data).view(self.dtype).reshape(self.shape)


class _Workers:
    """Worker processes, which take turns, and a thread that collects what they make."""

    def __init__(
        self, collator: Collator, order: Iterable[SampleKeys], num_workers: int, pin: bool
    ) -> None:
        self._order = iter(order)
        self._pin = pin
        # None after the last.
        self._ready: queue.Queue[Made | None] = queue.Queue(NUM_READY)
        self._is_closed = threading.Event()
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._collector = threading.Thread(target=self._collect, daemon=True)
        # If nobody closes this, as when a notebook keeps a loop that failed. Python asks workers to
        # end by SIGTERM, which they ignore, and would wait for them for ever.
        Finalize(self, _kill, args=(self._processes,), exitpriority=0)
        try:
            for _ in range(num_workers):
                self._start(collator)
        except OSError as error:
            self.close()
            raise RunError(
                f"data.num_workers = {num_workers}: worker {len(self._processes) + 1} cannot be "
                f"started: {error}; use fewer, or raise the limit (ulimit -n for open files, "
                "ulimit -u for processes)"
            ) from error

    def _start(self, collator: Collator) -> None:
        ours, theirs = PROCESSES.Pipe()
        # A forked worker inherits this process's ends of the pipes, and would keep them open.
        inherited = [*self._pipes, ours]
        process = PROCESSES.Process(target=_work, args=(collator, theirs, inherited), daemon=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def __enter__(self) -> "_Workers":
        self._collector.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing: a read that hangs is not waited for."""
        self._is_closed.set()
        _kill(self._processes)
        for process in self._processes:
            process.join(PATIENCE)
        if self._collector.is_alive():
            self._collector.join(PATIENCE)
        for pipe in self._pipes:
            pipe.close()

    def collected(self, is_stopping: Callable[[], bool]) -> Iterator[Made]:
        """Yield what the workers make, in order."""
        while not is_stopping():
            with contextlib.suppress(queue.Empty):
                made = self._ready.get(timeout=POLL)
                if made is None:
                    return
                yield made
        raise StoppedWaitingError("stopped while waiting for data")

    def _collect(self) -> None:
        try:
            for made in self._received():
                self._put(made)
            self._put(None)
        # Whatever ends this thread must not leave the run waiting.
        except Exception as error:
            self._put(LoadFailure(f"loading failed: {describe(error)}", traceback.format_exc()))

    def _received(self) -> Iterator[Made]:
        num_asked = 0
        # Until the size of one is known, each worker makes one.
        num_ahead = len(self._pipes)
        for num_received in itertools.count():
            num_wanted = num_received + num_ahead - num_asked
            for keys in itertools.islice(self._order, max(0, num_wanted)):
                # A worker that has died is found where its answer is read.
                with contextlib.suppress(OSError):
                    self._pipes[num_asked % len(self._pipes)].send(keys)
                num_asked += 1
            if num_received == num_asked:
                return
            worker = num_received % len(self._pipes)
            try:
                made: Made = self._pipes[worker].recv()
            except (EOFError, OSError):
                yield _death(self._processes[worker])
                return
            num_ahead = _num_ahead(_num_bytes(made), len(self._pipes))
            made = map_leaves(_Packed, _Packed.unpacked, made)
            yield made.pin_memory() if self._pin and isinstance(made, MicroBatch) else made

    def _put(self, made: Made | None) -> None:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(made, timeout=POLL)
                return


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()


def _num_bytes(made: Made) -> int:
    """Return the size of a packed micro-batch."""
    sizes: list[int] = []
    map_leaves(_Packed, lambda packed: sizes.append(packed.data.nbytes), made)
    return sum(sizes)


def _num_ahead(num_bytes: int, num_workers: int) -> int:
    """Return how many micro-batches of a size to ask for ahead: at least one of each worker."""
    most = MAX_BYTES_AHEAD // max(1, num_bytes)
    return max(num_workers, min(NUM_AHEAD * num_workers, most))


def _death(process: BaseProcess) -> LoadFailure:
    process.join(PATIENCE)
    code = process.exitcode
    how = f"ended with exit code {code}"
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
        elif code == -signal.SIGBUS:
            how += ", as when a file is cut short while it is read"
    return LoadFailure(
        f"a data worker {how}; use fewer data.num_workers or a smaller train.micro_batch_size, "
        "or find out why with data.num_workers = 0, which reads in the main process"
    )


# What follows runs in the worker.


def _work(collator: Collator, pipe: Connection, inherited: list[Connection]) -> None:
    # Some signals reach the whole process group; the main process decides what to do.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A thread of its own sends, so that the next one is made while one is on its way.
    outgoing: queue.Queue[Made] = queue.Queue(NUM_AHEAD)
    threading.Thread(target=_send_all, args=(pipe, outgoing), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            made = _make(collator, pipe.recv())
            outgoing.put(map_leaves(Tensor, _Packed.of, made))


def _end_with_parent() -> None:
    """End this process when the main process does, even if a read hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _send_all(pipe: Connection, outgoing: "queue.Queue[Made]") -> None:
    try:
        while True:
            pipe.send(outgoing.get())
    # The other end is gone, and nobody is left to tell.
    except OSError:
        os._exit(1)
