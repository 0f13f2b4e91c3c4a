"""From the bytes of a picture to pixels: the part that all transforms share."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from renaissance.contracts.transform import Transform
from renaissance.data.open_image import ImageFaultError, ImageLimits, encoded_file, undecodable
from renaissance.data.png import missing_pixels
from renaissance.errors import DataError

T = TypeVar("T")

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
# Formats in which Pillow scales the levels of mode I to 16 bits. Pictures in memory have none.
SCALED_TO_16_BITS = (None, "PNG", "PPM")
BITS_PER_SAMPLE_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO = 258, 262, 0
SAMPLE_FORMAT, SIGNED = 339, 2
# Larger pictures are converted in strips of about this size: on a picture of 100 million pixels,
# that takes a third of the time and half of the memory.
STRIP_PIXELS = 1 << 18


def square_pixels(
    image: Image.Image,
    transform: Transform,
    generator: np.random.Generator,
    limits: ImageLimits,
    source: str,
) -> NDArray[np.uint8]:
    """Return a picture as pixels, (3, image_size, image_size).

    Args:
        image: The picture, ideally not decoded yet. A JPEG may stay at the scale at which the
            transform decoded it.
        transform: Decodes, resizes and augments it.
        generator: For the transform's random choices.
        limits: Larger pictures are refused before decoding.
        source: Where the picture comes from, for messages.

    Raises:
        DataError: If the picture cannot be decoded, is too large, or has levels of unknown range.
    """
    return decoded(image, limits, source, lambda image: transform.pixels(image, generator))


def decoded(
    image: Image.Image, limits: ImageLimits, source: str, decode: Callable[[Image.Image], T]
) -> T:
    """Decode a picture: all commands do it here, so that what one accepts, the others accept.

    Args:
        image: The picture.
        limits: Larger pictures are refused before decoding.
        source: Where the picture comes from, for messages.
        decode: Makes of it what is needed.

    Raises:
        ImageFaultError: If the picture cannot be decoded, is too large, or has levels of unknown
            range.
    """
    fault = limits.fault(image) or range_fault(image)
    if fault is not None:
        raise ImageFaultError(f"{source}: {fault}", fault)
    file = encoded_file(image)
    try:
        result = decode(image)
    # Decoders raise all kinds of errors on damaged data.
    except Exception as error:
        if _is_from_pillow(error):
            raise undecodable(source, f"{type(error).__name__}: {error}") from error
        raise
    if file is not None and image.format == "PNG" and _ends_black(image):
        fault = missing_pixels(file.getvalue())
        if fault is not None:
            raise undecodable(source, fault)
    return result


def _ends_black(image: Image.Image) -> bool:
    """Return whether the last row is black, as it is if it was missing."""
    return not any(image.crop((0, image.height - 1, image.width, image.height)).tobytes())


def upright(image: Image.Image, picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a picture; EXIF data that cannot be read count as none.

    Args:
        image: The picture as opened, with its EXIF data.
        picture: The picture to turn, made from `image`.
    """
    try:
        transpose = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    # Pillow raises all kinds of errors on damaged EXIF data.
    except Exception:
        transpose = None
    return picture if transpose is None else picture.transpose(transpose)


def range_fault(image: Image.Image) -> str | None:
    """Return why the levels of a picture cannot be scaled to 8 bits, or None; only opens it."""
    is_deep = image.mode == "F" or (image.mode == "I" and image.format not in SCALED_TO_16_BITS)
    # Pillow reads signed levels of 8 bits as unsigned ones.
    is_signed = SIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ())
    if not is_deep and not is_signed:
        return None
    kind = "floating-point numbers" if image.mode == "F" else "signed or 32-bit integers"
    return (
        f"image of {kind} (mode {image.mode}, {image.format}), which may have any range; expected "
        "8 or 16 bits. Scale its levels to 8 or 16 bits, and save it as PNG"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB: transparency becomes white, 16-bit grey keeps its high byte.

    Raises:
        DataError: If it has floating-point or 32-bit levels, whose range is not known.
    """
    fault = range_fault(image)
    if fault is not None:
        raise DataError(fault)
    image.load()
    tags = getattr(image, "tag_v2", {})
    is_plain = not (image.has_transparency_data or image.mode.startswith("I"))
    if is_plain or image.width * image.height <= STRIP_PIXELS:
        return _strip_to_rgb(image, tags)
    picture = Image.new("RGB", image.size)
    height = max(1, STRIP_PIXELS // image.width)
    for upper in range(0, image.height, height):
        box = (0, upper, image.width, min(upper + height, image.height))
        picture.paste(_strip_to_rgb(image.crop(box), tags), (0, upper))
    return picture


def _strip_to_rgb(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    picture = _from_16_bits(image, tags) if image.mode.startswith("I") else image
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _from_16_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Return the high bytes, with an alpha channel if a level is transparent.

    Pillow's own conversions clip 16-bit levels at 255.

    Args:
        image: The picture.
        tags: The tags of a TIFF.
    """
    levels = np.asarray(image).clip(0, 0xFFFF)
    (bits,) = tags.get(BITS_PER_SAMPLE_TAG, (16,))
    high = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        high = 255 - high
    picture = Image.fromarray(high)
    key = image.info.get("transparency")
    if isinstance(key, int):
        picture.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return picture


def _is_from_pillow(error: Exception) -> bool:
    """Return whether Pillow raised an error; if not, it is a bug in the transform."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").split(".")[0] == "PIL" for frame, _ in frames)
