"""Several datasets, one index."""

from collections.abc import Sequence

import numpy as np

from renaissance.contracts import Dataset, Sample
from renaissance.errors import DataError
from renaissance.randomness import keyed_generator


class Concatenation:
    """Datasets one after the other.

    Args:
        datasets: The datasets, with the names that messages use.
    """

    def __init__(self, datasets: Sequence[tuple[str, Dataset]]) -> None:
        self.names = [name for name, _ in datasets]
        self.datasets = [dataset for _, dataset in datasets]
        lengths = [len(dataset) for dataset in self.datasets]
        for name, length in zip(self.names, lengths, strict=True):
            if length == 0:
                raise DataError(f"{name}: the dataset is empty; check its files and split")
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def source_of(self, index: int) -> int:
        """Return the position of the dataset that holds a sample."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def sample(self, seed: int, epoch: int, index: int) -> Sample:
        """Return a sample; the dataset's own randomness is keyed by (seed, epoch, index)."""
        source = self.source_of(index)
        start = int(self._ends[source - 1]) if source else 0
        generator = keyed_generator(seed, epoch, index, "dataset")
        return self.datasets[source].sample(index - start, generator)
