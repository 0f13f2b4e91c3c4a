"""Two gloo ranks, as two threads of this process: a component need not be importable by another."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

NUM_RANKS = 2
TIMEOUT = timedelta(seconds=30)


def on_two_ranks(function: Callable[[Any], Any]) -> list[Any]:
    """Call a function on two ranks at once.

    Args:
        function: Takes the process group.

    Returns:
        What it returned, by rank.

    Raises:
        Exception: What it raised, on the lowest rank that did.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]
    results: list[Any] = [None] * NUM_RANKS
    failures: list[Exception | None] = [None] * NUM_RANKS
    # Kept until both ranks are done: taking a group down waits for its peers, with Python's lock
    # held, and the other rank may need that lock to get done.
    groups: list[Any] = [None] * NUM_RANKS

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
    for failure in failures:
        if failure is not None:
            raise failure
    return results


def _process_group(store: Any, rank: int) -> Any:
    # A group of its own for each thread; `init_process_group` allows one rank a process. It makes
    # its groups by these same calls, which torch has had since 2.11 at least.
    group = dist.ProcessGroup(store, rank, NUM_RANKS)
    gloo = dist.ProcessGroupGloo(store, rank, NUM_RANKS, TIMEOUT)
    kind = dist.ProcessGroup.BackendType.GLOO
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, gloo)
    return group
