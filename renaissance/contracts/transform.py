"""The contract of image transforms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance.contracts.component import Component

Channels = tuple[float, float, float]


@attrs.frozen
class TransformContext:
    """What a transform may need to know about the run.

    Attributes:
        image_size: Side of the square images, pixels.
        training: False in evaluation, where nothing is augmented.
        mean: Channel means that the run normalizes with, in [0, 1]. Pixels of this colour become 0,
            which suits padding.
    """

    image_size: int
    training: bool
    mean: Channels


class Transform(Component, ABC):
    """Turns any picture into a square RGB image.

    It is sent to loader workers, so it must be picklable.

    Attributes:
        mean: Default channel means, in [0, 1]. The run normalizes with them, on the device, unless
            the run spec or the image encoder sets others.
        std: Default standard deviations of the channels, likewise.
        is_deterministic: Whether equal pictures always give equal pixels, whatever the generator.
            If so, an image is decoded and encoded once per micro-batch, however many samples show
            it, and `data.cache` can keep its pixels. Set it in `__init__`; it must be True in
            evaluation.
    """

    mean: ClassVar[Channels]
    std: ClassVar[Channels]
    is_deterministic: bool

    def __init__(self, options: object, context: TransformContext) -> None: ...

    @abstractmethod
    def pixels(self, image: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture as pixels, (3, image_size, image_size), uint8, C-contiguous.

        Args:
            image: The picture, of any size and mode, usually not decoded and not yet turned by its
                EXIF orientation. `image.draft` decodes a JPEG at a fraction of its size,
                `renaissance.to_rgb` converts any mode to RGB, and `renaissance.upright` applies
                the orientation. Do not modify it in place: a dataset may return the same object
                again.
            generator: For all random choices, keyed by (seed, epoch, index). A deterministic
                transform must not draw from it.

        Raises:
            Exception: Whatever Pillow raises on damaged data; the caller names the record.
        """

    def image_processor(self) -> Mapping[str, object] | None:
        """Return the preprocessor_config.json of an image processor that does the same.

        It is one of transformers, and does what the transform does in evaluation, but for rounding.
        `renaissance export` writes it, and adds mean and standard deviation. None, the default, if
        there is no such image processor.
        """
        return None

    def lost_area(self, width: int, height: int) -> float | None:
        """Return which share of a picture's area the model does not see, from 0 to 1.

        `renaissance check` reports it for a sample of the images. None, the default, if it is not
        known or random.

        Args:
            width: Width of the picture, pixels.
            height: Height of the picture, pixels.
        """
        return None
