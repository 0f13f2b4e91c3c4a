"""The bases of the built-in transforms."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance import Transform, TransformContext
from renaissance.builtin.transforms.augmentation import AugmentationOptions
from renaissance.builtin.transforms.cut import Cut, centre_cut, random_cut


class SquareTransform(Transform):
    """Crops, resizes and augments; the subclass chooses the part of the picture.

    Transparency becomes white, 16-bit grey keeps its high byte, EXIF orientation is applied, and
    resizing is bicubic. Augmentation comes after resizing, so its cost does not depend on the size
    of the photo.
    """

    Options = AugmentationOptions

    def __init__(self, options: AugmentationOptions, context: TransformContext) -> None:
        self.image_size = context.image_size
        self.augmentation = options if context.training else AugmentationOptions()
        self.is_deterministic = self.augmentation.is_off

    def pixels(self, image: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture as pixels, (3, image_size, image_size), uint8."""
        cut = self._cut(image, generator)
        picture = self.augmentation.apply(cut.taken_from(image), generator)
        # (size, size, 3) to (3, size, size)
        return np.ascontiguousarray(np.asarray(self.squared(picture)).transpose(2, 0, 1))

    def lost_area(self, width: int, height: int) -> float | None:
        """Return which share of a picture's area is cut off; None if the crop is random."""
        if self.augmentation.random_resized_crop is not None:
            return None
        return self.cut(width, height).lost_area

    def _cut(self, image: Image.Image, generator: np.random.Generator) -> Cut:
        area_range = self.augmentation.random_resized_crop
        if area_range is None:
            return self.cut(image.width, image.height)
        return random_cut(image.width, image.height, self.image_size, area_range, generator)

    @abstractmethod
    def cut(self, width: int, height: int) -> Cut:
        """Return the part of a picture of this size to use, and the size to resize it to."""

    def squared(self, picture: Image.Image) -> Image.Image:
        """Make the resized part a square of `image_size`, if it is not one already."""
        return picture


class CentreTransform(SquareTransform):
    """Resizes the shorter side to the image size, and crops the centre."""

    def cut(self, width: int, height: int) -> Cut:
        """Return the square at the centre."""
        return centre_cut(width, height, self.image_size)

    def image_processor(self) -> Mapping[str, object]:
        """Return the config of CLIP's image processor."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.image_size},
            "resample": Image.Resampling.BICUBIC,
            "do_center_crop": True,
            "crop_size": {"height": self.image_size, "width": self.image_size},
            "do_convert_rgb": True,
        }
