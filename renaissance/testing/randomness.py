"""Sets the global random state, to show what depends on it, and restores it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_state(seed: int, torch_seed: int | None = None) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators for a while.

    Args:
        seed: Seed of all three.
        torch_seed: Seed of torch's, if different: it is the only one that the engine seeds.
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
