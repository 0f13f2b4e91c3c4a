"""The whole picture, stretched."""

from collections.abc import Mapping

from PIL import Image

from renaissance.builtin.transforms.cut import Cut, whole_cut
from renaissance.builtin.transforms.square import SquareTransform


class Stretch(SquareTransform):
    """The whole picture, stretched to the square whatever its shape; normalized to [-1, 1].

    ViT's image processor in transformers does the same. Nothing is cropped, but wide pictures look
    narrow.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def cut(self, width: int, height: int) -> Cut:
        """Return the whole picture, stretched to the square."""
        return whole_cut(self.image_size, self.image_size)

    def image_processor(self) -> Mapping[str, object]:
        """Return the config of ViT's image processor."""
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": Image.Resampling.BICUBIC,
        }
