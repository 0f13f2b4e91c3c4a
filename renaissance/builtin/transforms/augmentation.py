"""The augmentations of the built-in transforms, and their options."""

import attrs
import numpy as np
from PIL import Image

from renaissance import fraction, option, positive
from renaissance.builtin.transforms.randaugment import MAX_MAGNITUDE, RandAugment


def _magnitude(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if not 0 <= value <= MAX_MAGNITUDE:
        raise ValueError(f"got {value}, expected an integer from 0 to {MAX_MAGNITUDE}")


def _area_range(
    instance: object,
    attribute: "attrs.Attribute[tuple[float, float] | None]",
    value: tuple[float, float] | None,
) -> None:
    if value is not None and not 0 < value[0] <= value[1] <= 1:
        raise ValueError(
            f"got {list(value)}, expected the smallest and the largest share of the picture's "
            "area, 0 < smallest <= largest <= 1, such as [0.08, 1.0]"
        )


@attrs.frozen
class AugmentationOptions:
    """Random augmentations of training images; none by default."""

    randaugment: bool = option(False, help="RandAugment in training (Cubuk et al., 2020).")
    randaugment_num_ops: int = option(2, help="Operations per image.", validator=positive)
    randaugment_magnitude: int = option(
        9, help="Strength of the operations, 0 to 30.", validator=_magnitude
    )
    random_resized_crop: tuple[float, float] | None = option(
        None,
        help="In training, crop a random box and stretch it to the square: the smallest and the "
        "largest share of the picture's area, such as [0.08, 1.0] (Szegedy et al., 2015). Off by "
        "default.",
        validator=_area_range,
    )
    horizontal_flip: float = option(
        0.0,
        help="Probability of mirroring a training image left to right. The text does not change: "
        "leave this at 0 if texts say 'left' or 'right', or quote writing in the image.",
        validator=fraction,
    )

    @property
    def is_off(self) -> bool:
        """Whether there is no augmentation."""
        return not (self.randaugment or self.random_resized_crop or self.horizontal_flip)

    def apply(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Mirror and augment a picture that is already cropped and resized."""
        # Nothing is drawn for what is off.
        if self.horizontal_flip and generator.random() < self.horizontal_flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.randaugment:
            augment = RandAugment(self.randaugment_num_ops, self.randaugment_magnitude)
            picture = augment(picture, generator)
        return picture
