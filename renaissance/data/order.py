"""The order of training samples, computed instead of stored.

An epoch is a permutation that costs no memory and can be entered anywhere: a Feistel network keyed
by (seed, epoch) over a grid barely larger than the dataset, walked until it lands inside (Black
and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renaissance.randomness import keyed_seed

NUM_ROUNDS = 8
WORD = (1 << 64) - 1


class Permutation:
    """A keyed bijection of [0, length): `permutation[i]` is where position i points to.

    Args:
        length: Number of elements, at least 1 and below 2^62.
        key: Chooses the permutation.

    Raises:
        ValueError: If there is nothing to permute, or too much.
    """

    def __init__(self, length: int, key: int) -> None:
        if not 1 <= length < 1 << 62:
            raise ValueError(f"length: got {length}, expected 1 <= length < 2^62")
        self.length = length
        # A grid of rows x columns >= length that is too large by less than one row.
        self._columns = math.isqrt(length - 1) + 1
        self._rows = -(-length // self._columns)
        self._round_keys = [keyed_seed(key, "permutation", i) for i in range(NUM_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> int:
        """Return the element at one position.

        Raises:
            IndexError: If the position is not in [0, length).
        """
        if not 0 <= position < self.length:
            raise IndexError(f"position: got {position}, expected 0 <= position < {self.length}")
        element: int = self._permute_grid(int(position))
        while element >= self.length:
            element = self._permute_grid(element)
        return element

    def take(self, positions: NDArray[Any]) -> NDArray[np.int64]:
        """Return the elements at many positions: int64, in the shape of `positions`.

        Raises:
            IndexError: If a position is not in [0, length).
        """
        if positions.size and not (positions.min() >= 0 and positions.max() < self.length):
            raise IndexError(
                f"positions: got {positions.min()} to {positions.max()}, "
                f"expected 0 <= position < {self.length}"
            )
        elements: NDArray[np.uint64] = self._permute_grid(positions.astype(np.uint64))
        while (outside := elements >= self.length).any():
            elements[outside] = self._permute_grid(elements[outside])
        return elements.astype(np.int64)

    def _permute_grid(self, element: Any) -> Any:
        # The same arithmetic serves a Python integer and an array of uint64. Adding a hash of the
        # other coordinate can be undone, so each round, and the whole, is a bijection of the grid.
        row, column = element // self._columns, element % self._columns
        for i in range(0, NUM_ROUNDS, 2):
            row = (row + _mix(column, self._round_keys[i]) % self._rows) % self._rows
            column = (column + _mix(row, self._round_keys[i + 1]) % self._columns) % self._columns
        return row * self._columns + column


class SampleStream:
    """The endless stream of training samples: which sample stands at which position.

    Without weights it is the concatenation of epochs, each a permutation of all datasets together.
    With weights each dataset has epochs of its own, and the datasets take turns: of any n
    consecutive positions each gets its share, to within a sample. Either way any position is found
    in constant time, by the seed alone.

    Args:
        lengths: Number of samples of each dataset.
        weights: How often each dataset's samples come, relative to the others; None to shuffle
            all together.
        seed: The run's seed.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self.lengths = list(lengths)
        self.weights = None if weights is None else list(weights)
        self.seed = seed
        self._starts = [0, *accumulate(self.lengths)]
        # Exact fractions, since rounding would let two positions claim one sample.
        exact = [Fraction(str(weight)) for weight in weights or ()]
        totals = list(accumulate(exact))
        # Share of each dataset among itself and those before it.
        self._shares = [own / total for own, total in zip(exact, totals, strict=True)]

    def __len__(self) -> int:
        """Return the number of samples of all datasets: what an epoch of the run counts."""
        return self._starts[-1]

    def at(self, position: int) -> tuple[int, int]:
        """Return (epoch, index): the sample's index in the concatenation of the datasets.

        Args:
            position: Position in the stream, samples from the start of the run.
        """
        if self.weights is None:
            return sample_at(position, len(self), self.seed)
        dataset, own_position = self._turn(position)
        epoch, place = divmod(own_position, self.lengths[dataset])
        order = _epoch_order(
            self.lengths[dataset], keyed_seed(self.seed, "dataset", dataset), epoch
        )
        return epoch, self._starts[dataset] + order[place]

    def min_share(self, num_positions: int) -> list[int]:
        """Return how many of so many consecutive positions each dataset gets at least."""
        numbers = []
        for share in reversed(self._shares):
            numbers.append(int(num_positions * share))
            num_positions -= math.ceil(num_positions * share)
        return numbers[::-1]

    def _turn(self, position: int) -> tuple[int, int]:
        """Return the dataset whose turn a position is, and how many turns it had before.

        From the last dataset to the first, each takes its share of what the later ones leave.
        """
        for dataset in range(len(self.lengths) - 1, 0, -1):
            share = self._shares[dataset]
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return dataset, before
            position -= before
        return 0, position


def sample_at(position: int, length: int, seed: int) -> tuple[int, int]:
    """Return the epoch and the sample index at a position of the stream of one dataset.

    The stream is the endless concatenation of epochs, each its own permutation of the dataset.

    Args:
        position: Position in the stream, samples from the start of the run.
        length: Number of samples of the dataset.
        seed: The run's seed.
    """
    epoch, place = divmod(position, length)
    return epoch, _epoch_order(length, seed, epoch)[place]


@lru_cache(maxsize=64)
def _epoch_order(length: int, seed: int, epoch: int) -> Permutation:
    return Permutation(length, keyed_seed(seed, epoch, "order"))


def _mix(word: Any, key: int) -> Any:
    # The finalizer of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators",
    # OOPSLA 2014). The mask keeps Python integers to 64 bits, as arrays do by themselves.
    word = (word + key) * 0x9E3779B97F4A7C15 & WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)
