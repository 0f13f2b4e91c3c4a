"""From the bytes of a picture to pixels: the part that all transforms share."""

import io
import traceback

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

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
# Formats in which Pillow scales the levels of mode I to 16 bits. Pictures in memory have none.
SCALED_TO_16_BITS = (None, "PNG", "PPM")
BITS_PER_SAMPLE_TAG, PHOTOMETRIC_TAG, WHITE_IS_ZERO = 258, 262, 0
# By Pillow's name for the pixels of a PNG.
KEY_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


def open_image(data: bytes | memoryview, source: str) -> Image.Image:
    """Open an encoded picture; only its header is read.

    Args:
        data: The bytes of the file.
        source: Where they come from, for messages.

    Raises:
        DataError: If it is not a picture.
    """
    try:
        image = Image.open(io.BytesIO(data))
        _scale_key(image)
        return image
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
        DataError: If the picture cannot be decoded, is too large, or has levels of unknown range.
    """
    num_pixels = image.width * image.height
    if num_pixels > max_image_pixels:
        raise DataError(
            f"{source}: image of {image.width} x {image.height} = {num_pixels} pixels; expected at "
            f"most {max_image_pixels} (data.max_image_pixels). Scale it down, or raise the limit"
        )
    fault = range_fault(image)
    if fault is not None:
        raise DataError(f"{source}: {fault}")
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


def range_fault(image: Image.Image) -> str | None:
    """Return why the levels of a picture cannot be scaled to 8 bits, or None; only opens it."""
    is_deep = image.mode == "F" or (image.mode == "I" and image.format not in SCALED_TO_16_BITS)
    if not is_deep:
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
    picture = _from_16_bits(image) if image.mode.startswith("I") else image
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Return the high bytes, with an alpha channel if a level is transparent.

    Pillow's own conversions clip 16-bit levels at 255.
    """
    levels = np.asarray(image).clip(0, 0xFFFF)
    tags = getattr(image, "tag_v2", {})
    (bits,) = tags.get(BITS_PER_SAMPLE_TAG, (16,))
    high = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        high = 255 - high
    picture = Image.fromarray(high)
    key = image.info.get("transparency")
    if isinstance(key, int):
        picture.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return picture


def _scale_key(image: ImageFile.ImageFile) -> None:
    """Scale the transparent level or colour of a PNG as Pillow scales its pixels.

    Pillow compares the 8-bit pixels with a key of the file's depth: 2, 4 or 16 bits.
    """
    key = image.info.get("transparency")
    # Only before the pixels are decoded is it known what they are in the file: "L;4", "RGB;16B".
    layout = str(image.tile[0][3]) if image.tile else ""
    scale = KEY_SCALES.get(layout)
    if image.format == "PNG" and scale is not None and isinstance(key, int | tuple):
        scaled = [int(level * scale) for level in ((key,) if isinstance(key, int) else key)]
        image.info["transparency"] = scaled[0] if isinstance(key, int) else tuple(scaled)


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
