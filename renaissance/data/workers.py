"""How many processes load data for a rank: `data.num_workers`."""

import os
from typing import Literal

from renaissance.errors import SpecError
from renaissance.launch import cores_of_rank

# Beyond this, a rank that waits for data needs smaller image files rather than more workers.
MAX_AUTO = 32
# Beyond this, workers only take each other's turns.
WORKERS_PER_CORE = 64
# A pipe and what tells of its end.
FILES_PER_WORKER = 3


def count_workers(setting: int | Literal["auto"]) -> int:
    """Return the number of worker processes of this rank.

    "auto" leaves one core to the main process. On a single core there is still one worker, which
    reads while a GPU computes.
    """
    return setting if setting != "auto" else min(max(cores_of_rank() - 1, 1), MAX_AUTO)


def check_workers(num_workers: int) -> None:
    """Check that this machine can hold a rank's worker processes.

    Raises:
        SpecError: If there are far too many.
    """
    most = WORKERS_PER_CORE * (os.cpu_count() or 1)
    what = f"{WORKERS_PER_CORE} for each CPU core"
    try:
        import resource  # Not on Windows.
    except ImportError:
        pass
    else:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and files // FILES_PER_WORKER < most:
            most, what = files // FILES_PER_WORKER, f"what a limit of {files} open files allows"
    if num_workers > most:
        raise SpecError(
            f"data.num_workers: got {num_workers:,}, more than {most:,}, {what} on this machine; "
            "use about as many as it has cores for each rank"
        )
