"""The contract of image transforms."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance.contracts.component import Component

Channels = tuple[float, float, float]


@attrs.frozen
class TransformContext:
    """What a transform may need to know of the run.

    Attributes:
        image_size: Side of the square images, pixels.
        training: False in evaluation, where nothing is augmented.
        mean: Mean of each channel that the run normalizes with, in [0, 1].
    """

    image_size: int
    training: bool
    mean: Channels


class Transform(Component, ABC):
    """Makes a square RGB image of any picture.

    Attributes:
        mean: Mean of each channel, in [0, 1], for normalization on the device, where neither the
            run spec nor the image encoder says one.
        std: Standard deviation of each channel, likewise.
        is_deterministic: Whether equal pictures always give equal pixels; a cache needs to know.
    """

    mean: ClassVar[Channels]
    std: ClassVar[Channels]
    is_deterministic: bool

    def __init__(self, options: Any, context: TransformContext) -> None: ...

    @abstractmethod
    def pixels(self, image: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture as pixels, (3, image_size, image_size), uint8.

        Args:
            image: The picture, upright EXIF orientation not yet applied, best not decoded yet: a
                JPEG can be decoded at a fraction of its size (`Image.draft`).
            generator: For all random choices; keyed by (seed, epoch, index).

        Raises:
            Exception: Whatever Pillow raises over damaged data; the caller names the record.
        """
