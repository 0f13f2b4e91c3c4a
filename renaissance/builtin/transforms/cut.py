"""Crops: which part of a picture is used, and at which size."""

import math

import attrs
import numpy as np
from PIL import Image

from renaissance import to_rgb, upright

# Range of a random box's width / height, and number of draws until one fits.
ASPECT_RATIOS = (3 / 4, 4 / 3)
MAX_DRAWS = 10


@attrs.frozen
class Cut:
    """A box of a picture, and the size to resize it to.

    Attributes:
        whole: Width and height of the whole picture, in the unit of `box`. That need not be a pixel
            of the original: to resize and then crop is to take a box of the resized picture.
        box: Left, upper, right and lower edge.
        size: Width and height of the result, pixels.
    """

    whole: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def lost_area(self) -> float:
        """Which share of the picture's area lies outside the box, from 0 to 1."""
        left, upper, right, lower = self.box
        width, height = self.whole
        return 1 - (right - left) * (lower - upper) / (width * height)

    def taken_from(self, image: Image.Image) -> Image.Image:
        """Decode a picture and return the box, upright, as RGB.

        A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that suffices: the decoder then skips
        the high frequencies that resizing would drop anyway. On photos, the result differs from
        that of a full decode by about 2 of 255 levels.
        """
        image.draft(None, self._needed())
        image.load()
        picture = to_rgb(image)
        # Resizing only the box saves the work on pixels that are cropped.
        picture = picture.resize(self.size, Image.Resampling.BICUBIC, self._box_in(picture))
        return upright(image, picture)

    def _needed(self) -> tuple[int, int]:
        """Return the smallest size of the whole picture at which the box is not enlarged."""
        left, upper, right, lower = self.box
        width, height = self.whole
        return (
            math.ceil(width * self.size[0] / (right - left)),
            math.ceil(height * self.size[1] / (lower - upper)),
        )

    def _box_in(self, picture: Image.Image) -> tuple[float, float, float, float]:
        left, upper, right, lower = self.box
        width, height = self.whole
        # Multiplied before divided, so that rounding cannot move a corner outside the picture.
        return (
            left * picture.width / width,
            upper * picture.height / height,
            right * picture.width / width,
            lower * picture.height / height,
        )


def whole_cut(width: int, height: int) -> Cut:
    """Return the whole picture, resized to this width and height."""
    return Cut((width, height), (0, 0, width, height), (width, height))


def centre_cut(width: int, height: int, side: int) -> Cut:
    """Return the square at the centre of a picture whose shorter side is resized to `side`."""
    shorter = min(width, height)
    # Whole pixels, rounded down as torchvision does.
    whole = side * width // shorter, side * height // shorter
    left, upper = round((whole[0] - side) / 2), round((whole[1] - side) / 2)
    return Cut(whole, (left, upper, left + side, upper + side), (side, side))


def random_cut(
    width: int,
    height: int,
    side: int,
    area_range: tuple[float, float],
    generator: np.random.Generator,
) -> Cut:
    """Return a random box, as a square (Szegedy et al., "Going deeper with convolutions", 2015).

    Its share of the area is uniform and its aspect ratio log-uniform. A box that does not fit is
    drawn again; after 10 draws, it is the largest centred box with an allowed aspect ratio.

    Args:
        width: Width of the picture.
        height: Height of the picture.
        side: Side of the square, pixels.
        area_range: Smallest and largest share of the picture's area.
        generator: Draws the box.
    """
    lowest, highest = ASPECT_RATIOS
    for _ in range(MAX_DRAWS):
        area = width * height * generator.uniform(*area_range)
        aspect_ratio = math.exp(generator.uniform(math.log(lowest), math.log(highest)))
        box_width = round(math.sqrt(area * aspect_ratio))
        box_height = round(math.sqrt(area / aspect_ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(width - box_width + 1))
            upper = int(generator.integers(height - box_height + 1))
            break
    else:
        box_width = min(width, round(height * highest))
        box_height = min(height, round(width / lowest))
        left, upper = (width - box_width) // 2, (height - box_height) // 2
    box = (left, upper, left + box_width, upper + box_height)
    return Cut((width, height), box, (side, side))
