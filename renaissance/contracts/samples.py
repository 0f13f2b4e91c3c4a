"""Training examples."""

from collections.abc import Hashable, Mapping
from typing import Any

import attrs
import numpy as np
from PIL import Image

from renaissance.randomness import keyed_generator


@attrs.frozen
class Sample:
    """One training example, as a dataset returns it.

    Attributes:
        text: The text, if any.
        text_pair: A second text, for sentence-pair tasks.
        images: Images, opened but not yet decoded, so that a transform can decode a JPEG at a
            smaller scale and a repeated image need not be decoded again.
        image_ids: One identifier per image; equal identifiers mean equal images.
        labels: Further values, by their names in `Dataset.provides`.
        source: File and row, for error messages.
    """

    text: str | None = None
    text_pair: str | None = None
    images: tuple[Image.Image, ...] = ()
    image_ids: tuple[Hashable, ...] = ()
    labels: Mapping[str, Any] = attrs.field(factory=dict)
    source: str = ""


@attrs.frozen
class KeyedSample:
    """A sample with its position in the run, which determines everything random about it.

    Attributes:
        sample: The sample.
        seed: The run's seed.
        epoch: Epoch in which the sample is drawn (0 in evaluation).
        index: Index in the concatenation of the datasets of this split.
        text: Same as `sample.text`; so are `images`, `image_ids`, `labels` and `source`.
    """

    sample: Sample
    seed: int
    epoch: int
    index: int

    @property
    def text(self) -> str | None:
        """The text, if any."""
        return self.sample.text

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The images, opened but not yet decoded."""
        return self.sample.images

    @property
    def image_ids(self) -> tuple[Hashable, ...]:
        """One identifier per image."""
        return self.sample.image_ids

    @property
    def labels(self) -> Mapping[str, Any]:
        """Further values that the dataset provides, by name."""
        return self.sample.labels

    @property
    def source(self) -> str:
        """File and row, for messages."""
        return self.sample.source

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the generator for a purpose: a function of (seed, epoch, index, purpose)."""
        return keyed_generator(self.seed, self.epoch, self.index, purpose)
