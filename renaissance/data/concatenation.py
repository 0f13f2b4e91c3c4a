"""Several datasets, one index."""

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
        datasets: The datasets, with the names that messages use.
        weights: How often each is drawn from in training, relative to the others; None to shuffle
            all together.
        routes: Names of the objectives that each dataset's samples go to; None for all.

    Attributes:
        has_routes: Whether any dataset is for some of the objectives only.
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
            # Taking turns by size, so that every micro-batch holds samples of each.
            self.weights = self.lengths
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def source_of(self, index: int) -> int:
        """Return the position of the dataset that holds a sample."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def goes_to(self, index: int, objective: str) -> bool:
        """Return whether a sample is for an objective."""
        route = self.routes[self.source_of(index)] if self.has_routes else None
        return route is None or objective in route

    def stream(self, seed: int) -> SampleStream:
        """Return the order of training."""
        return SampleStream(self.lengths, self.weights, seed)

    def random_index(self, like: int, generator: np.random.Generator) -> int:
        """Return the index of a random sample that goes to the same objectives as another."""
        route = self.routes[self.source_of(like)]
        if all(other == route for other in self.routes):
            return int(generator.integers(len(self)))
        members = [i for i, other in enumerate(self.routes) if other == route]
        place = int(generator.integers(sum(self.lengths[i] for i in members)))
        for member in members:
            if place < self.lengths[member]:
                break
            place -= self.lengths[member]
        return int(self._ends[member]) - self.lengths[member] + place

    def sample(self, seed: int, epoch: int, index: int) -> Sample:
        """Return a sample; the dataset's own randomness is keyed by (seed, epoch, index)."""
        source = self.source_of(index)
        start = int(self._ends[source - 1]) if source else 0
        generator = keyed_generator(seed, epoch, index, "dataset")
        return self.datasets[source].sample(index - start, generator)
