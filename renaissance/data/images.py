"""From the bytes of a picture to pixels: the part that all transforms share."""

import io
import traceback

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from renaissance.contracts.transform import Transform
from renaissance.errors import DataError

# `square_pixels` checks sizes itself, against the run's limit and with the record's name.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION_TAG = 0x0112
# How to turn a picture upright, by EXIF orientation; 1 is upright already.
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
    # Decoders raise all kinds of errors on damaged headers.
    except Exception as error:
        raise _undecodable(source, f"{type(error).__name__}: {error}") from error


def square_pixels(
    image: Image.Image,
    transform: Transform,
    generator: np.random.Generator,
    max_image_pixels: int,
    source: str,
) -> NDArray[np.uint8]:
    """Return a picture as pixels, (3, image_size, image_size).

    Args:
        image: The picture, ideally not decoded yet. A JPEG may stay at the scale at which the
            transform decoded it.
        transform: Decodes, resizes and augments it.
        generator: For the transform's random choices.
        max_image_pixels: Pictures with more pixels are refused before decoding.
        source: Where the picture comes from, for messages.

    Raises:
        DataError: If the picture cannot be decoded, or is too large.
    """
    num_pixels = image.width * image.height
    if num_pixels > max_image_pixels:
        raise DataError(
            f"{source}: image of {image.width} x {image.height} = {num_pixels} pixels; expected at "
            f"most {max_image_pixels} (data.max_image_pixels). Scale it down, or raise the limit"
        )
    try:
        return transform.pixels(image, generator)
    # Decoders raise all kinds of errors on damaged data.
    except Exception as error:
        if _is_from_pillow(error):
            raise _undecodable(source, f"{type(error).__name__}: {error}") from error
        raise


def upright(image: Image.Image, picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a picture.

    Args:
        image: The picture as opened, with its EXIF data.
        picture: The picture to turn, made from `image`.
    """
    transpose = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    return picture if transpose is None else picture.transpose(transpose)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB: transparency becomes white, 16-bit grey keeps its high byte."""
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip 16-bit levels at 255.
        levels = np.asarray(image).clip(0, 0xFFFF) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _is_from_pillow(error: Exception) -> bool:
    """Return whether Pillow raised an error; if not, it is a bug in the transform."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").split(".")[0] == "PIL" for frame, _ in frames)


def _undecodable(source: str, cause: str) -> DataError:
    return DataError(
        f"{source}: image cannot be decoded ({cause}); expected a whole JPEG, PNG or other picture "
        "that Pillow reads. Replace it and prepare the data again, or let the run skip it with "
        "data.max_bad_samples"
    )
