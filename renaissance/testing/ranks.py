"""Two gloo ranks in two threads: another process might not be able to import the component."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

NUM_RANKS = 2
TIMEOUT = timedelta(seconds=30)

T = TypeVar("T")


def on_two_ranks(function: Callable[[dist.ProcessGroup], T]) -> list[T]:
    """Call a function on two ranks at once.

    Args:
        function: Takes the process group.

    Returns:
        Its results, by rank.

    Raises:
        Exception: The function's exception, on the lowest rank that raised one.
        TimeoutError: If a rank does not finish.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]
    results: dict[int, T] = {}
    failures: dict[int, Exception] = {}
    # Kept until both ranks are done: destroying a group waits for its peers with Python's lock
    # held, and the other rank may need that lock to finish.
    groups: dict[int, dist.ProcessGroup] = {}

    def work(rank: int) -> None:
        try:
            groups[rank] = _process_group(store, rank)
            results[rank] = function(groups[rank])
        # Raised again by the caller's thread.
        except Exception as error:
            failures[rank] = error

    threads = [
        threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(NUM_RANKS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT.total_seconds())
    for rank in sorted(failures):
        raise failures[rank]
    if len(results) < NUM_RANKS:
        raise TimeoutError(f"only {len(results)} of {NUM_RANKS} ranks finished in time")
    return [results[rank] for rank in range(NUM_RANKS)]


def _process_group(store: Store, rank: int) -> dist.ProcessGroup:
    # One group per thread: `init_process_group` allows only one rank per process. It makes its
    # groups by the same calls, which torch has had since 2.11 at least.
    group = dist.ProcessGroup(store, rank, NUM_RANKS)
    gloo = dist.ProcessGroupGloo(store, rank, NUM_RANKS, TIMEOUT)
    kind = dist.ProcessGroup.BackendType.GLOO
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, gloo)
    return group
