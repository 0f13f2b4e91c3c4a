"""Random numbers that depend on what they are for, not on which process draws them or when.

Every random choice uses a generator keyed by (seed, epoch, index, purpose). Philox is counter-based
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so a new generator costs
microseconds, and streams with different keys are independent.
"""

import hashlib

import numpy as np


def keyed_generator(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator for one purpose, for one sample in one epoch."""
    return np.random.Generator(np.random.Philox(key=_key(f"{seed}/{epoch}/{index}/{purpose}")))


def keyed_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for torch generators, a function of the parts alone."""
    return _key("/".join(map(str, parts))) >> 65


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
