"""Several datasets with one index."""

from collections.abc import Sequence

import numpy as np

from renaissance.contracts.dataset import Dataset
from renaissance.contracts.samples import Sample
from renaissance.data.order import SampleStream
from renaissance.errors import DataError
from renaissance.randomness import keyed_generator


class Concatenation:
    """Datasets one after the other.

    Args:
        datasets: The datasets, each with its name for messages.
        weights: Sampling weight of each dataset: how often training draws from it, relative to the
            others; None to shuffle all together.
        routes: For each dataset, the names of the objectives that get its samples; None for all.

    Raises:
        DataError: If a dataset is empty.

    Attributes:
        has_routes: Whether any dataset serves only some of the objectives.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[str, Dataset]],
        weights: Sequence[float] | None = None,
        routes: Sequence[frozenset[str] | None] | None = None,
    ) -> None:
        self.names = [name for name, _ in datasets]
        self.datasets = [dataset for _, dataset in datasets]
        self.lengths = [len(dataset) for dataset in self.datasets]
        for name, length in zip(self.names, self.lengths, strict=True):
            if length == 0:
                raise DataError(f"{name}: the dataset is empty; check its files and split")
        self.routes = [None] * len(self.datasets) if routes is None else list(routes)
        self.has_routes = any(route is not None for route in self.routes)
        self.weights = weights
        if weights is None and self.has_routes:
            # Weighted by size, they take turns, so that each objective gets samples in every
            # micro-batch.
            self.weights = self.lengths
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def dataset_of(self, index: int) -> int:
        """Return the index of the dataset that holds a sample."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def goes_to(self, index: int, objective: str) -> bool:
        """Return whether an objective gets a sample."""
        route = self.routes[self.dataset_of(index)] if self.has_routes else None
        return route is None or objective in route

    def stream(self, seed: int) -> SampleStream:
        """Return the order of training samples."""
        return SampleStream(self.lengths, self.weights, seed)

    def random_index(self, like: int, generator: np.random.Generator) -> int:
        """Return the index of a random sample that goes to the same objectives as another."""
        route = self.routes[self.dataset_of(like)]
        if all(other == route for other in self.routes):
            return int(generator.integers(len(self)))
        same_route = [i for i, other in enumerate(self.routes) if other == route]
        offset = int(generator.integers(sum(self.lengths[i] for i in same_route)))
        for dataset in same_route:
            if offset < self.lengths[dataset]:
                break
            offset -= self.lengths[dataset]
        return int(self._ends[dataset]) - self.lengths[dataset] + offset

    def sample(self, seed: int, epoch: int, index: int) -> Sample:
        """Return a sample; the dataset draws from a generator keyed by (seed, epoch, index)."""
        dataset = self.dataset_of(index)
        start = int(self._ends[dataset]) - self.lengths[dataset]
        generator = keyed_generator(seed, epoch, index, "dataset")
        return self.datasets[dataset].sample(index - start, generator)
