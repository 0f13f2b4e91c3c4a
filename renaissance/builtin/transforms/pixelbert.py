"""The whole picture, padded."""

from PIL import Image

from renaissance import TransformContext
from renaissance.builtin.transforms.augmentation import AugmentationOptions
from renaissance.builtin.transforms.cut import Cut, whole_cut
from renaissance.builtin.transforms.square import SquareTransform


class PixelBERT(SquareTransform):
    """Longer side to the image size, padded with the mean colour; normalized to [-1, 1].

    After Pixel-BERT (Huang et al., 2020) and ViLT (Kim et al., 2021), except that their inputs have
    the shape of the picture. Here all inputs are squares, so that all images of a run have the same
    shape.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, options: AugmentationOptions, context: TransformContext) -> None:
        super().__init__(options, context)
        red, green, blue = (round(channel * 255) for channel in context.mean)
        self.background = (red, green, blue)

    def cut(self, width: int, height: int) -> Cut:
        """Return the whole picture, its longer side resized to the image size."""
        longer = max(width, height)
        return whole_cut(
            max(1, self.image_size * width // longer), max(1, self.image_size * height // longer)
        )

    def squared(self, picture: Image.Image) -> Image.Image:
        """Pad the picture to the square, in the middle."""
        size = self.image_size
        canvas = Image.new("RGB", (size, size), self.background)
        canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        return canvas
