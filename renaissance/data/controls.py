"""Controls: the same samples without what one modality says, to see what a model relies on.

A sample keeps its labels and the identifiers of its images, so every metric still has its meaning.
"""

from typing import Literal

import attrs
import numpy as np
from PIL import Image

from renaissance.contracts.dataset import Dataset
from renaissance.contracts.samples import Sample
from renaissance.data.concatenation import Concatenation
from renaissance.errors import DataError
from renaissance.randomness import keyed_generator

Control = Literal["blank image", "other image", "blank text"]
CONTROLS: tuple[Control, ...] = ("blank image", "other image", "blank text")

GREY = (127, 127, 127)
# Draws of another image before the dataset is taken to have only one.
MAX_DRAWS = 100


def controls_of(datasets: Concatenation) -> list[Control]:
    """Return the controls that take something away from at least one of the datasets."""
    provided = frozenset[str]().union(*(dataset.provides for dataset in datasets.datasets))
    return [
        control
        for control in CONTROLS
        if ("image" if control.endswith("image") else "text") in provided
    ]


def controlled(datasets: Concatenation, control: Control) -> Concatenation:
    """Return the same datasets under a control."""
    wrapped = [
        (name, Controlled(dataset, control))
        for name, dataset in zip(datasets.names, datasets.datasets, strict=True)
    ]
    return Concatenation(wrapped, datasets.weights, datasets.routes)


class Controlled(Dataset):
    """A dataset under a control.

    Args:
        dataset: The dataset.
        control: "blank image" makes all images grey; "other image" gives each image the
            pixels of another one, always the same; "blank text" makes all texts empty.
    """

    def __init__(self, dataset: Dataset, control: Control) -> None:
        self.dataset = dataset
        self.control = control
        self.provides = dataset.provides

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample.

        Raises:
            DataError: If it cannot be read, or has no other image to take the place of its own.
        """
        sample = self.dataset.sample(index, generator)
        if self.control == "blank text":
            return attrs.evolve(
                sample, text=_blank(sample.text), text_pair=_blank(sample.text_pair)
            )
        if self.control == "blank image":
            images = tuple(Image.new("RGB", image.size, GREY) for image in sample.images)
        else:
            images = tuple(self._other(sample, which) for which in range(len(sample.images)))
        return attrs.evolve(sample, images=images)

    def _other(self, sample: Sample, which: int) -> Image.Image:
        """Return a random image that is not one of the sample's own."""
        # Keyed by the image: it has the same pixels in all its samples.
        generator = keyed_generator(0, 0, which, f"shuffled/{sample.image_ids[which]!r}")
        for _ in range(MAX_DRAWS):
            other = self.dataset.sample(int(generator.integers(len(self))), generator)
            if set(other.image_ids).isdisjoint(sample.image_ids):
                return other.images[min(which, len(other.images) - 1)]
        raise DataError(
            f"{sample.source}: {MAX_DRAWS} random draws found no other image; shuffling needs a "
            "dataset of at least two different images"
        )


def _blank(text: str | None) -> str | None:
    return None if text is None else ""
