"""The contract of datasets."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import numpy as np

from renaissance.contracts.component import Component
from renaissance.contracts.samples import Sample
from renaissance.errors import DataError
from renaissance.limits import DEFAULT_LIMITS, ReadLimits


@attrs.frozen
class DatasetContext:
    """What a dataset may need to know about the run.

    Attributes:
        root: `data.root`, against which relative paths are resolved.
        seed: The run's seed.
        training: True for `[[data.train]]`.
        max_image_bytes: `data.max_image_bytes`; a larger file need not be read to its end.
        limits: Of other things that are read: `data.max_record_bytes` and so on.
    """

    root: Path
    seed: int
    training: bool
    max_image_bytes: int = 100_000_000
    limits: ReadLimits = DEFAULT_LIMITS


class Dataset(Component, ABC):
    """A sequence of samples.

    Attributes:
        provides: What each sample has: "text", "text_pair", "image", and names of labels.
        vocabulary: All words of its texts, BERT's special tokens first, for
            `data.tokenizer = "dataset"`; None if texts need a real tokenizer.
        files: The prepared files that it reads, which `data.verify = "sha256"` compares with their
            manifests.
    """

    provides: frozenset[str]
    vocabulary: Sequence[str] | None = None
    files: Sequence[Path] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample; `generator` is keyed by (seed, epoch, index).

        Raises:
            DataError: If the record cannot be read; the message must name file, row and cause.
        """

    def label_values(self, name: str) -> Iterable[object]:
        """Return the value of a label in every sample, in order, without decoding images.

        Objectives find their classes with it. The values are those of `Sample.labels`.

        Args:
            name: One of the labels in `provides`.

        Raises:
            DataError: If the dataset cannot list them.
        """
        raise DataError(
            f"{type(self).__name__} cannot list the values of its label '{name}'; expected a "
            "dataset with label_values, such as 'table'. Use one, or for classes, name them in a "
            "file (classes = 'classes.txt')"
        )
