"""From the bytes of a picture to a square of pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from renaissance.data.randaugment import RandAugment
from renaissance.errors import DataError

if TYPE_CHECKING:
    from renaissance.spec.sections import TransformSection

# `ImageTransform` checks sizes itself, against the run's limit and with the record's name.
Image.MAX_IMAGE_PIXELS = None

Channels = tuple[float, float, float]

INCEPTION: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALIZATIONS: dict[str, tuple[Channels, Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "vit": INCEPTION,
    "pixelbert": INCEPTION,
}

ORIENTATION_TAG = 0x0112
# EXIF orientation to what sets the picture upright; 1 is upright already.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(data: bytes | memoryview, source: str) -> Image.Image:
    """Open an encoded picture; only its header is read.

    Args:
        data: The bytes of the file.
        source: Where they come from, for messages.

    Raises:
        DataError: If it is not a picture.
    """
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise _undecodable(
            source, f"no known format; it starts with {bytes(data[:8])!r}"
        ) from error
    # Decoders raise all manner of errors over damaged headers.
    except Exception as error:
        raise _undecodable(source, f"{type(error).__name__}: {error}") from error


class ImageTransform:
    """Makes a square RGB image of any picture.

    The rules: `imagenet`, `clip` and `vit` bring the shorter side to the image size and cut out
    the centre. `pixelbert` keeps the whole picture: the longer side is brought to the image size
    and the rest is filled with the mean colour (ViLT's canvas follows the shape of the picture;
    one fixed square lets all images of a run have one shape). Resizing is bicubic; the grid is
    that of resizing to whole pixels and then cropping.

    JPEGs are decoded at 1/2, 1/4 or 1/8 where that is no smaller than what the rule needs: the
    decoder leaves out the finest frequencies instead of computing them for the resizing to drop.
    On photos the result differs from that of a full decode by about 2 of 255 levels.

    Transparent pictures are laid on white. 16-bit grey keeps its high byte. EXIF orientation is
    applied. Augmentation follows the resizing, so that its cost does not depend on the photo.

    Args:
        section: `[data.transform]`.
        image_size: Side of the square, pixels.
        training: Whether to augment, if the section says so.
        max_image_pixels: Pictures with more pixels are refused before they are decoded.

    Attributes:
        mean: Mean of each channel, in [0, 1], for normalization on the device.
        std: Standard deviation of each channel.
    """

    def __init__(
        self, section: TransformSection, image_size: int, training: bool, max_image_pixels: int
    ) -> None:
        mean, std = NORMALIZATIONS[section.name]
        self.mean: Channels = section.mean or mean
        self.std: Channels = section.std or std
        self._image_size = image_size
        self._max_image_pixels = max_image_pixels
        self._keeps_whole = section.name == "pixelbert"
        self._augment = (
            RandAugment(section.randaugment_num_ops, section.randaugment_magnitude)
            if training and section.randaugment
            else None
        )

    @property
    def deterministic(self) -> bool:
        """Whether equal pictures always give equal pixels."""
        return self._augment is None

    def __call__(
        self, image: Image.Image, generator: np.random.Generator | None, source: str
    ) -> NDArray[np.uint8]:
        """Transform one picture, best one that is not decoded yet.

        Args:
            image: The picture. If it is a JPEG not yet decoded, it is afterwards at the scale
                that it was decoded at.
            generator: Random choices; needed unless `deterministic`.
            source: Where the picture comes from, for messages.

        Returns:
            Pixels, (3, image_size, image_size).

        Raises:
            DataError: If the picture cannot be decoded, or is too large.
        """
        self._check_size(image, source)
        try:
            square = self._resized(image)
        # Decoders raise all manner of errors over damaged data.
        except Exception as error:
            raise _undecodable(source, f"{type(error).__name__}: {error}") from error
        if self._augment is not None:
            if generator is None:
                raise ValueError("augmentation needs a generator")
            square = self._augment(square, generator)
        if self._keeps_whole:
            square = self._padded(square)
        # (size, size, 3) to (3, size, size)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def _check_size(self, image: Image.Image, source: str) -> None:
        if image.width * image.height > self._max_image_pixels:
            raise DataError(
                f"{source}: image of {image.width} x {image.height} = "
                f"{image.width * image.height} pixels; expected at most {self._max_image_pixels} "
                "(data.max_image_pixels). Scale it down, or raise the limit"
            )

    def _resized(self, image: Image.Image) -> Image.Image:
        size = self._resized_size(image)
        image.draft(None, size)
        image.load()
        picture = to_rgb(image)
        box = (0.0, 0.0, float(picture.width), float(picture.height))
        if not self._keeps_whole:
            box = _centre_box(picture, size, self._image_size)
            size = (self._image_size, self._image_size)
        picture = picture.resize(size, Image.Resampling.BICUBIC, box)
        return upright(image, picture)

    def _resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Return the size of the whole picture after resizing, before any cropping."""
        width, height = image.size
        side = max(width, height) if self._keeps_whole else min(width, height)
        # Whole pixels, rounded down as torchvision does.
        return (
            max(1, self._image_size * width // side),
            max(1, self._image_size * height // side),
        )

    def _padded(self, picture: Image.Image) -> Image.Image:
        size = self._image_size
        red, green, blue = (round(channel * 255) for channel in self.mean)
        canvas = Image.new("RGB", (size, size), (red, green, blue))
        canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        return canvas


def _centre_box(
    picture: Image.Image, resized: tuple[int, int], crop: int
) -> tuple[float, float, float, float]:
    """Return the part of the picture that resizing and then cropping the centre would show.

    Resizing only that part saves the pixels that the crop would drop.
    """
    (width, height), (resized_width, resized_height) = picture.size, resized
    left, top = round((resized_width - crop) / 2), round((resized_height - crop) / 2)
    # Multiplied before divided, so that no corner lands outside by a rounding error.
    return (
        left * width / resized_width,
        top * height / resized_height,
        (left + crop) * width / resized_width,
        (top + crop) * height / resized_height,
    )


def upright(image: Image.Image, picture: Image.Image) -> Image.Image:
    """Return `picture`, made of `image`, turned as the EXIF orientation of `image` says."""
    transpose = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    return picture if transpose is None else picture.transpose(transpose)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: transparency on white, the high byte of 16-bit grey."""
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit levels at 255.
        levels = np.asarray(image).clip(0, 0xFFFF) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _undecodable(source: str, cause: str) -> DataError:
    return DataError(
        f"{source}: image cannot be decoded ({cause}); expected a whole JPEG, PNG or other picture "
        "that Pillow reads. Replace it and prepare the data again, or let the run skip it with "
        "data.max_bad_samples"
    )
