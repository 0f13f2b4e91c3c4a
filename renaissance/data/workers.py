"""How many processes load data for a rank: `data.num_workers`."""

from typing import Literal

from renaissance.launch import cores_of_rank

# Beyond this, a rank that waits for data needs smaller image files rather than more workers.
MAX_AUTO = 32


def count_workers(setting: int | Literal["auto"]) -> int:
    """Return the number of worker processes of this rank.

    "auto" leaves one core to the main process. On a single core there is still one worker, which
    reads while a GPU computes.
    """
    return setting if setting != "auto" else min(max(cores_of_rank() - 1, 1), MAX_AUTO)
