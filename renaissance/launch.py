"""What a launcher tells a process of the others, and is told by it, without importing torch."""

import json
import os
import platform
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from renaissance.errors import RenaissanceError

# Of the line that torchrun's report ends with.
MAX_LINE_LENGTH = 200


# torchrun's agent is this process's parent; without it, a parent may leave as it likes.
BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
# Seconds between two looks at whether the agent is still there.
POLL = 0.5
# Seconds in which a run saves a checkpoint and leaves; one that waits for a lost peer never would.
PATIENCE = 60
# What asks a run to stop: a scheduler or torchrun, Ctrl-C, a terminal that was closed, other
# schedulers, a limit of CPU time. Not all of them exist on Windows.
STOPPING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = tuple(getattr(signal, name) for name in STOPPING if hasattr(signal, name))
# Where a container sees its own limits (version 2 of control groups).
CGROUP = Path("/sys/fs/cgroup")


class Launch(NamedTuple):
    """One process among those that torchrun started.

    Attributes:
        rank: Its rank.
        world_size: Number of ranks.
        local_rank: Its rank among those on the same machine.
    """

    rank: int
    world_size: int
    local_rank: int


def launch_of_process() -> Launch:
    """Return what torchrun set in the environment; one process without torchrun.

    Raises:
        RenaissanceError: If the variables cannot belong to one launch, such as RANK=1 alone.
    """
    launch = Launch(_integer("RANK", 0), _integer("WORLD_SIZE", 1), _integer("LOCAL_RANK", 0))
    needed = ["WORLD_SIZE"]
    if launch.world_size > 1:
        needed = ["RANK", "MASTER_ADDR", "MASTER_PORT"]
    elif not (launch.rank or launch.local_rank):
        return launch
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        _refuse(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not")
    _integer("MASTER_PORT", 0)
    if max(launch.rank, launch.local_rank) >= launch.world_size:
        _refuse(f"ranks must be less than WORLD_SIZE={launch.world_size}")
    return launch


def cores_of_rank() -> int:
    """Return how many CPU cores each rank of this machine has, at least 1."""
    world_size = launch_of_process().world_size
    # torchrun says how many ranks are here. Other launchers may not: then all of them could be.
    here = min(_integer("LOCAL_WORLD_SIZE", world_size), world_size)
    return max(1, usable_cores() // here)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop.

    Those that `nohup` has let it ignore, or that a plugin uses, are not among them.
    """
    always, others = STOP_SIGNALS[:2], STOP_SIGNALS[2:]
    return [*always, *(n for n in others if signal.getsignal(n) is signal.SIG_DFL)]


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use: a container may have few."""
    is_linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        # "max 100000" without a limit, which is then not a number.
        quota, period = (CGROUP / "cpu.max").read_text().split()
        cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def rank_of_process() -> int:
    """Return the rank that torchrun gave this process; 0 without torchrun, or if it is not valid.

    It is for messages, which must be printed whatever the environment holds.
    """
    try:
        return launch_of_process().rank
    except RenaissanceError:
        return 0


def name_of_process() -> str:
    """Return the rank of this process for messages, with its machine if there are several."""
    launch = launch_of_process()
    here = _integer("LOCAL_WORLD_SIZE", launch.world_size)
    node = f" ({platform.node()})" if here < launch.world_size else ""
    return f"rank {launch.rank}{node}"


def is_launched() -> bool:
    """Return whether a launcher has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def tell_launcher(message: str) -> None:
    """Tell torchrun in one line why this rank leaves; it ends its report with that.

    Otherwise it says at length that it does not know.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    line = message.partition("\n")[0]
    line = line if len(line) <= MAX_LINE_LENGTH else line[: MAX_LINE_LENGTH - 3] + "..."
    # The form that torch.distributed.elastic.multiprocessing.errors.record writes.
    details = {"py_callstack": line, "timestamp": str(int(time.time()))}
    # It is only a report: the message itself is printed.
    with suppress(OSError):
        Path(path).write_text(json.dumps({"message": {"message": line, "extraInfo": details}}))


def end_with_launcher() -> None:
    """End this process, as SIGTERM would, when torchrun's agent is gone, even by SIGKILL."""
    if BY_TORCHRUN in os.environ:
        threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)


def is_lost_peer(error: Exception) -> bool:
    """Return whether an error says only that another rank has gone, not why."""
    # gloo raises a plain RuntimeError.
    texts = ("Connection closed by peer", "Connection reset by peer")
    if any(text in str(error) for text in texts):
        return True
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and isinstance(error, distributed.DistError)


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    smallest = 1 if name.endswith("WORLD_SIZE") else 0
    # isdecimal alone takes digits of any script.
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= smallest):
        _refuse(f"{name} must be an integer of at least {smallest}")
    return int(text)


def _refuse(reason: str) -> NoReturn:
    names = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ]
    values = ", ".join(f"{name}={os.environ[name][:40]}" for name in names)
    verb = "is" if len(names) == 1 else "are"
    raise RenaissanceError(
        f"{values} {verb} set, but {reason}; start the run with torchrun, which sets all of them, "
        f"or `unset {' '.join(names)}` to run one process"
    )
