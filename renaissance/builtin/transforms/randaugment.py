"""RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation", 2020)."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 30

Picture = Image.Image
Operation = Callable[[Picture, float], Picture]


class RandAugment:
    """Random operations, one after the other, on an RGB image.

    The operations and their ranges are those of ViLT (Kim et al., 2021), which omits inversion and
    cutout because captions mention colours and small objects. Magnitude m means the value
    `low + m / 30 * (high - low)` of each range. ViLT's ranges are unchanged, even where a larger
    value has a weaker effect (posterize, solarize, and the enhancements below 1), so that its
    results can be reproduced.

    Args:
        num_ops: Operations per image, drawn with replacement.
        magnitude: Strength, 0 to 30.
    """

    def __init__(self, num_ops: int, magnitude: int) -> None:
        self.num_ops = num_ops
        self.magnitude = magnitude

    def __call__(self, image: Picture, generator: np.random.Generator) -> Picture:
        """Augment an RGB image; all choices come from `generator`."""
        for choice in generator.integers(len(OPERATIONS), size=self.num_ops):
            operation, low, high, has_sign = OPERATIONS[choice]
            value = low + self.magnitude / MAX_MAGNITUDE * (high - low)
            if has_sign and generator.random() < 0.5:
                value = -value
            image = operation(image, value)
        return image


def _auto_contrast(image: Picture, _: float) -> Picture:
    return ImageOps.autocontrast(image)


def _equalize(image: Picture, _: float) -> Picture:
    return ImageOps.equalize(image)


def _rotate(image: Picture, degrees: float) -> Picture:
    return image.rotate(degrees)


def _posterize(image: Picture, bits: float) -> Picture:
    return ImageOps.posterize(image, max(1, int(bits)))


def _solarize(image: Picture, threshold: float) -> Picture:
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]


def _solarize_add(image: Picture, addition: float) -> Picture:
    brighter = image.point(lambda level: min(int(level + addition), 255))
    return ImageOps.solarize(brighter, 128)


def _color(image: Picture, factor: float) -> Picture:
    return ImageEnhance.Color(image).enhance(factor)


def _contrast(image: Picture, factor: float) -> Picture:
    return ImageEnhance.Contrast(image).enhance(factor)


def _brightness(image: Picture, factor: float) -> Picture:
    return ImageEnhance.Brightness(image).enhance(factor)


def _sharpness(image: Picture, factor: float) -> Picture:
    return ImageEnhance.Sharpness(image).enhance(factor)


def _shear_x(image: Picture, shear: float) -> Picture:
    return _affine(image, (1, shear, 0, 0, 1, 0))


def _shear_y(image: Picture, shear: float) -> Picture:
    return _affine(image, (1, 0, 0, shear, 1, 0))


def _translate_x(image: Picture, share: float) -> Picture:
    return _affine(image, (1, 0, share * image.width, 0, 1, 0))


def _translate_y(image: Picture, share: float) -> Picture:
    return _affine(image, (1, 0, 0, 0, 1, share * image.height))


def _affine(image: Picture, coefficients: tuple[float, ...]) -> Picture:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients)


# ViLT shifts the original photo by up to 100 pixels. Here the resized picture is shifted, by the
# same share of a side, taking photos to be 640 pixels wide.
MAX_TRANSLATION = 100 / 640

# Operation, value at magnitude 0, value at magnitude 30, whether its sign is random.
OPERATIONS: tuple[tuple[Operation, float, float, bool], ...] = (
    (_auto_contrast, 0, 1, False),
    (_equalize, 0, 1, False),
    (_rotate, 0, 30, True),
    (_posterize, 0, 4, False),
    (_solarize, 0, 256, False),
    (_solarize_add, 0, 110, False),
    (_color, 0.1, 1.9, False),
    (_contrast, 0.1, 1.9, False),
    (_brightness, 0.1, 1.9, False),
    (_sharpness, 0.1, 1.9, False),
    (_shear_x, 0, 0.3, True),
    (_shear_y, 0, 0.3, True),
    (_translate_x, 0, MAX_TRANSLATION, True),
    (_translate_y, 0, MAX_TRANSLATION, True),
)
