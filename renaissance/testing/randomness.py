"""Set the global random state to show what depends on it, and put it back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_state(seed: int, torch_seed: int | None = None) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators for a while.

    Args:
        seed: Of all three.
        torch_seed: Of torch's, where it is to differ: the engine seeds that one, and no other.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed if torch_seed is None else torch_seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
