"""The contract of datasets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from renaissance.contracts.component import Component
from renaissance.contracts.samples import Sample


@attrs.frozen
class DatasetContext:
    """What a dataset may need to know about the run.

    Attributes:
        root: `data.root`, against which relative paths are resolved.
        seed: The run's seed.
        training: True for `[[data.train]]`.
    """

    root: Path
    seed: int
    training: bool


class Dataset(Component, ABC):
    """A sequence of samples.

    Attributes:
        provides: What each sample has: "text", "text_pair", "image", and names of labels.
        vocabulary: All words of its texts, BERT's special tokens first, for
            `data.tokenizer = "dataset"`; None if texts need a real tokenizer.
    """

    provides: frozenset[str]
    vocabulary: Sequence[str] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample; `generator` is keyed by (seed, epoch, index).

        Raises:
            DataError: If the record cannot be read; the message must name file, row and cause.
        """
