"""Training examples."""

from collections.abc import Hashable, Mapping
from typing import Any

import attrs
import numpy as np
from PIL import Image

from renaissance.randomness import keyed_generator


@attrs.frozen
class Sample:
    """One training example, as a dataset gives it.

    Attributes:
        text: The text, if any.
        text_pair: A second text, for sentence-pair tasks.
        images: Images, opened but not yet decoded (so that decoding can be scaled or saved).
        image_ids: One identifier an image; equal identifiers mean the same image.
        labels: Whatever else the dataset provides, by the names in `Dataset.provides`.
        source: File and row, for messages.
    """

    text: str | None = None
    text_pair: str | None = None
    images: tuple[Image.Image, ...] = ()
    image_ids: tuple[Hashable, ...] = ()
    labels: Mapping[str, Any] = attrs.field(factory=dict)
    source: str = ""


@attrs.frozen
class KeyedSample:
    """A sample with its place in the run, from which everything random about it is derived.

    Attributes:
        sample: The sample.
        seed: The run's seed.
        epoch: Epoch that the sample is drawn in (0 in evaluation).
        index: Index in the concatenation of the datasets of this split.
    """

    sample: Sample
    seed: int
    epoch: int
    index: int

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the random generator for one purpose: a function of (seed, epoch, index)."""
        return keyed_generator(self.seed, self.epoch, self.index, purpose)
