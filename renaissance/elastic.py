"""Starts the ranks of a command on this machine, in place of torchrun.

torchrun prints a traceback of its own after the message of a rank; this prints nothing, unless a
rank was killed and could not say why.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from renaissance.errors import SpecError, quoted
from renaissance.launch import is_launched, usable_cores

AUTO = "auto"
# Ranks that are asked to stop save a checkpoint first.
SHUTDOWN_SECONDS = 90


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
    )
    try:
        elastic_launch(config, sys.executable)("-m", "renaissance", *arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _exit_code(rank, failure)
    return 0


def _exit_code(rank: int, failure: ProcessFailure) -> int:
    code = int(failure.exitcode)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    print(
        f"error: rank {rank} was ended by {name}, and could not say why; if it was SIGKILL, the "
        "machine may be out of memory: see `dmesg`, and lower train.micro_batch_size or "
        "data.num_workers",
        file=sys.stderr,
        flush=True,
    )
    return 128 - code
