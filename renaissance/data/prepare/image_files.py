"""Image files in preparation: reading them, checking them, and making smaller copies."""

import functools
import io
import os

from PIL import Image

from renaissance.contracts.source import ImageFile
from renaissance.data.images import decoded, range_fault, to_rgb, upright
from renaissance.data.jpeg import JPEG_START, has_end
from renaissance.data.open_image import ImageFaultError, ImageLimits, open_image
from renaissance.data.png import PNG_START
from renaissance.data.prepare.remote import is_address, read_address

PNG_END = b"IEND\xaeB`\x82"
JPEG_QUALITY = 95


def stamp(file: ImageFile) -> str | None:
    """Return a string that changes when the image file does; None if the file is missing."""
    if is_address(file.path):
        return ""
    # Members of a tar follow each other, so its status is read once for all of them.
    return _cached_stamp(file.path) if file.size is not None else _stamp(file.path)


def _stamp(path: str) -> str | None:
    try:
        status = os.stat(path)
    # A path with a NUL character is a ValueError.
    except (OSError, ValueError):
        return None
    return f"{status.st_size}/{status.st_mtime_ns}"


_cached_stamp = functools.lru_cache(maxsize=8)(_stamp)


def read_image(file: ImageFile, max_bytes: int) -> bytes:
    """Return the bytes of an image, at most `max_bytes`.

    Raises:
        DataError: If it is at an address that cannot be reached without further packages.
        OSError: If it cannot be read.
    """
    size = max_bytes if file.size is None else min(file.size, max_bytes)
    if is_address(file.path):
        return read_address(file.path, file.offset, file.offset + size)
    # A file object would take a third of the time of reading a small image.
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        available = os.fstat(descriptor).st_size - file.offset
        return os.pread(descriptor, max(0, min(size, available)), file.offset)
    finally:
        os.close(descriptor)


def image_fault(data: bytes, limits: ImageLimits) -> str | None:
    """Return what is wrong with an image file, or None if it looks whole.

    The header is parsed, and JPEG and PNG files must have their end mark; pixels are not decoded,
    which would take most of the time of preparing a dataset.
    """
    if not data:
        return "the file is empty"
    try:
        image = open_image(data, "")
    except ImageFaultError as error:
        return error.fault
    fault = limits.fault(image) or range_fault(image)
    if fault is not None:
        return fault
    end = _missing_end(data)
    # Training tells: the end alone may be damaged, of a picture with all its pixels.
    if end is not None and _decoding_fault(data, limits) is not None:
        return f"cut short: no {end}"
    return None


def _missing_end(data: bytes) -> str | None:
    if data.startswith(JPEG_START) and not has_end(data):
        return "JPEG end mark"
    if data.startswith(PNG_START) and PNG_END not in data:
        return "PNG end chunk"
    return None


def decode_fault(data: bytes, limits: ImageLimits) -> str | None:
    """Return what is wrong with an image file, or None; every pixel is decoded, as in training."""
    return image_fault(data, limits) or _decoding_fault(data, limits)


def _decoding_fault(data: bytes, limits: ImageLimits) -> str | None:
    try:
        decoded(open_image(data, ""), limits, "", lambda image: upright(image, to_rgb(image)))
    except ImageFaultError as error:
        return error.fault
    return None


def resized(data: bytes, shorter_side: int, limits: ImageLimits) -> bytes:
    """Return a smaller copy of an image file as JPEG; files that are no larger stay as they are.

    Args:
        data: The image file.
        shorter_side: Shorter side of the copy, pixels.
        limits: Larger images are refused.

    Raises:
        ImageFaultError: If the image cannot be decoded, or is too large.
    """
    image = open_image(data, "")
    scale = shorter_side / min(image.size)
    if scale >= 1:
        return data
    # A long, narrow image keeps at least one pixel.
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def smaller(image: Image.Image) -> Image.Image:
        # Where the format allows it, only twice the target size is decoded.
        image.draft(None, (2 * size[0], 2 * size[1]))
        return upright(image, to_rgb(image).resize(size, Image.Resampling.LANCZOS))

    file = io.BytesIO()
    decoded(image, limits, "", smaller).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
