"""The order of training samples, computed instead of stored.

An epoch is a permutation that takes no memory and allows random access: a Feistel network keyed by
(seed, epoch) on a grid barely larger than the dataset, applied again until the result lies inside
the dataset (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from renaissance.randomness import keyed_seed
from renaissance.spec.batch_plan import BatchPlan

NUM_ROUNDS = 8
WORD_MASK = (1 << 64) - 1

# An int or an array of uint64; NumPy's stubs give their sums and products other types.
Word: TypeAlias = Any
# (epoch, index) of each sample of a micro-batch.
SampleKeys: TypeAlias = list[tuple[int, int]]


class Permutation:
    """A keyed bijection of [0, length): `permutation[i]` is the element at position i.

    Args:
        length: Number of elements, at least 1 and below 2^62.
        key: Selects the permutation.

    Raises:
        ValueError: If the length is out of range.
    """

    def __init__(self, length: int, key: int) -> None:
        if not 1 <= length < 1 << 62:
            raise ValueError(f"length: got {length}, expected 1 <= length < 2^62")
        self.length = length
        # rows x columns >= length, with less than one row to spare, so few results lie outside.
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

    def take(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
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

    def _permute_grid(self, element: Word) -> Word:
        # The same arithmetic works on a Python integer and on an array of uint64. Adding a hash of
        # the other coordinate is invertible, so each round is a bijection of the grid, and so is
        # their composition.
        row, column = element // self._columns, element % self._columns
        for i in range(0, NUM_ROUNDS, 2):
            row = (row + _mix(column, self._round_keys[i]) % self._rows) % self._rows
            column = (column + _mix(row, self._round_keys[i + 1]) % self._columns) % self._columns
        return row * self._columns + column


class SampleStream:
    """The endless stream of training samples, with random access by position.

    Without sampling weights, it concatenates epochs, each a permutation of all datasets together.
    With weights, each dataset has its own epochs, and the datasets take turns: among any n
    consecutive positions, each gets its share to within one sample. Either way, looking up a
    position takes constant time and depends on the seed alone.

    Args:
        lengths: Number of samples of each dataset.
        weights: Sampling weight of each dataset, relative to the others; None to shuffle all
            together.
        seed: The run's seed.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self.lengths = list(lengths)
        self.weights = None if weights is None else list(weights)
        self.seed = seed
        self._starts = [0, *accumulate(self.lengths)]
        # Exact fractions: rounding could assign one sample to two positions.
        exact = [Fraction(str(weight)) for weight in weights or ()]
        totals = list(accumulate(exact))
        # Share of each dataset in the turns of itself and the datasets before it.
        self._shares = [weight / total for weight, total in zip(exact, totals, strict=True)]

    def __len__(self) -> int:
        """Return the number of samples of all datasets, which is one epoch of the run."""
        return self._starts[-1]

    def at(self, position: int) -> tuple[int, int]:
        """Return (epoch, index) of a sample; the index is that in the concatenated datasets.

        Args:
            position: Position in the stream, samples since the start of the run.
        """
        if self.weights is None:
            return sample_at(position, len(self), self.seed)
        dataset, turn = self._turn(position)
        epoch, epoch_position = divmod(turn, self.lengths[dataset])
        order = _epoch_order(
            self.lengths[dataset], keyed_seed(self.seed, "dataset", dataset), epoch
        )
        return epoch, self._starts[dataset] + order[epoch_position]

    def min_share(self, num_positions: int) -> list[int]:
        """Return how many of any `num_positions` positions in a row each dataset gets at least."""
        counts = []
        for share in reversed(self._shares):
            counts.append(int(num_positions * share))
            num_positions -= math.ceil(num_positions * share)
        return counts[::-1]

    def _turn(self, position: int) -> tuple[int, int]:
        """Return the dataset whose turn a position is, and how many turns it had before.

        Going from the last dataset to the first, each takes its share of the positions that the
        later ones leave.
        """
        for dataset in range(len(self.lengths) - 1, 0, -1):
            share = self._shares[dataset]
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return dataset, before
            position -= before
        return 0, position


def sample_at(position: int, length: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of the sample at a position in the stream of one dataset.

    The stream is an endless concatenation of epochs, each a different permutation of the dataset.

    Args:
        position: Position in the stream, samples since the start of the run.
        length: Number of samples of the dataset.
        seed: The run's seed.
    """
    epoch, epoch_position = divmod(position, length)
    return epoch, _epoch_order(length, seed, epoch)[epoch_position]


@lru_cache(maxsize=64)
def _epoch_order(length: int, seed: int, epoch: int) -> Permutation:
    return Permutation(length, keyed_seed(seed, epoch, "order"))


def _mix(word: Word, key: int) -> Word:
    # The finalizer of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators",
    # OOPSLA 2014). The mask keeps Python integers to 64 bits; arrays of uint64 overflow anyway.
    word = (word + key) * 0x9E3779B97F4A7C15 & WORD_MASK
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD_MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD_MASK
    return word ^ (word >> 31)


class TrainingOrder:
    """The samples of each micro-batch of one rank, in the order of steps.

    The stream of samples depends on the seed alone, and rank r of R takes the r-th part of each
    global batch. So global batches are the same with any number of ranks.
    """

    def __init__(
        self, plan: BatchPlan, rank: int, stream: SampleStream, start: int, stop: int
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.stream = stream
        self.start = start
        self.stop = stop

    def __iter__(self) -> Iterator[SampleKeys]:
        for position in range(self.start, self.stop, self.plan.global_batch_size):
            share = self.plan.global_batch_size // self.plan.world_size
            first = position + self.rank * share
            for begin in range(first, first + share, self.plan.micro_batch_size):
                positions = range(begin, begin + self.plan.micro_batch_size)
                yield [self.stream.at(position) for position in positions]


def evaluation_order(
    num_samples: int, micro_batch_size: int, rank: int, world_size: int
) -> list[SampleKeys]:
    """Return a rank's micro-batches for one pass; over all ranks, each sample comes exactly once.

    Neighbours stay together, since they often share an image, which is then encoded once. The
    epoch is always 0, so that evaluations of one run can be compared.
    """
    starts = np.arange(0, num_samples, micro_batch_size)[rank::world_size]
    return [
        [(0, index) for index in range(start, min(start + micro_batch_size, num_samples))]
        for start in starts.tolist()
    ]
