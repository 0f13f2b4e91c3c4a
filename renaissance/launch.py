"""What a launcher tells a process of the others, without importing torch."""

import os
import sys


def rank_of_process() -> int:
    """Return the rank that torchrun gave this process (0 without torchrun)."""
    return int(os.environ.get("RANK", "0"))


def is_lost_peer(error: Exception) -> bool:
    """Return whether an error says only that another rank has gone, not why."""
    # gloo raises a plain RuntimeError.
    texts = ("Connection closed by peer", "Connection reset by peer")
    if any(text in str(error) for text in texts):
        return True
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and isinstance(error, distributed.DistError)
