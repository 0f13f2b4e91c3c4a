"""Starts the ranks of a command on this machine, in place of torchrun.

torchrun prints a traceback of its own after the message of a rank; this prints nothing, unless a
rank was killed and could not say why.
"""

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from renaissance.errors import SpecError, quoted
from renaissance.launch import is_launched, stop_signals, usable_cores

AUTO = "auto"
# Ranks that are asked to stop save a checkpoint first.
SHUTDOWN_SECONDS = 90
# Between two looks at the memory of the ranks.
MEMORY_POLL_SECONDS = 1.0


def number_of_ranks(ranks: str, device: str) -> int:
    """Return how many ranks to start.

    Args:
        ranks: A number, or "auto": one per GPU, or a single one without GPUs.
        device: `train.device`.

    Raises:
        SpecError: If it is neither, or more than there are GPUs.
    """
    available = 0 if device == "cpu" else num_gpus()
    if ranks == AUTO:
        return available or 1
    if not (ranks.isascii() and ranks.isdecimal() and 0 < len(ranks) < 5 and int(ranks) > 0):
        raise SpecError(f"--ranks: got {quoted(ranks)}, expected a number of processes, or auto")
    if 0 < available < int(ranks):
        raise SpecError(
            f"--ranks: got {ranks}, but this machine has {available} GPU{'s'[: available > 1]}, "
            "and each rank needs its own; use --ranks auto, or train.device=cpu"
        )
    return int(ranks)


def num_gpus() -> int:
    """Return the number of GPUs of this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def start_ranks(arguments: Sequence[str], num_ranks: int) -> int:
    """Run the `renaissance` command on several ranks, to the end.

    Args:
        arguments: Those of the command, without `--ranks`.
        num_ranks: Number of ranks.

    Returns:
        Exit code: that of the first rank that failed, or 128 plus the signal that stopped it.

    Raises:
        SpecError: If this process is itself a rank.
    """
    if is_launched():
        raise SpecError("--ranks: torchrun has started several processes already; leave it out")
    # torch reports on ranks that have said themselves why they left.
    logging.disable(logging.CRITICAL)
    threads = max(1, usable_cores() // num_ranks)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        # Not those that `nohup` lets this process ignore.
        signals_to_handle=",".join(number.name for number in stop_signals()),
    )
    memory = MemoryLastSeen()
    memory.start()
    try:
        elastic_launch(config, sys.executable)("-m", "renaissance", *arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _exit_code(rank, failure, memory.of(failure.pid))
    return 0


class MemoryLastSeen(threading.Thread):
    """Looks at the memory of this process's children, of which nothing is left when one is killed.

    Only Linux shows it.
    """

    def __init__(self) -> None:
        super().__init__(name="memory", daemon=True)
        self._bytes: dict[int, int] = {}

    def run(self) -> None:
        """Look from time to time, as long as this process lives."""
        while True:
            self.look()
            time.sleep(MEMORY_POLL_SECONDS)

    def look(self) -> None:
        """Look once."""
        for tasks in Path("/proc/self/task").glob("*/children"):
            with suppress(OSError):
                for pid in map(int, tasks.read_text().split()):
                    with suppress(OSError, ValueError, IndexError):
                        num_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                        # A process that has ended, but was not waited for, has none left.
                        if num_pages:
                            self._bytes[pid] = num_pages * os.sysconf("SC_PAGE_SIZE")

    def of(self, pid: int) -> int | None:
        """Return the resident memory of a process, in bytes, when it was last seen."""
        return self._bytes.get(pid)


def _exit_code(rank: int, failure: ProcessFailure, memory: int | None = None) -> int:
    code = int(failure.exitcode)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    seen = "" if memory is None else f" (it last had {memory / 2**30:.1f} GiB in memory)"
    print(
        f"error: rank {rank} was ended by {name}, and could not say why{seen}; if it was SIGKILL, "
        "the machine may be out of memory: see `dmesg`, and lower train.micro_batch_size or "
        "data.num_workers",
        file=sys.stderr,
        flush=True,
    )
    return 128 - code
