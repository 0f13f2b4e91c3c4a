"""Image files in preparation: reading them, checking them, and making smaller copies."""

import functools
import io
import os

from PIL import Image

from renaissance.contracts.source import ImageFile
from renaissance.data.images import open_image, range_fault, to_rgb, upright
from renaissance.data.prepare.remote import is_address, read_address
from renaissance.errors import DataError

JPEG_START = b"\xff\xd8"
JPEG_SCAN = 0xDA
JPEG_END = b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
# The end mark is searched for in this many last bytes first: most files end with it.
TAIL_BYTES = 64
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
    except OSError:
        return None
    return f"{status.st_size}/{status.st_mtime_ns}"


_cached_stamp = functools.lru_cache(maxsize=8)(_stamp)


def read_image(file: ImageFile) -> bytes:
    """Return the bytes of an image.

    Raises:
        DataError: If it is at an address that cannot be reached without further packages.
        OSError: If it cannot be read.
    """
    if is_address(file.path):
        end = None if file.size is None else file.offset + file.size
        return read_address(file.path, file.offset or None, end)
    with open(file.path, "rb", buffering=0) as opened:
        if file.size is None:
            return opened.read()
        return os.pread(opened.fileno(), file.size, file.offset)


def image_fault(data: bytes) -> str | None:
    """Return what is wrong with an image file, or None if it looks whole.

    The header is parsed, and JPEG and PNG files must have their end mark; pixels are not decoded,
    which would take most of the time of preparing a dataset.
    """
    if not data:
        return "the file is empty"
    try:
        fault = range_fault(open_image(data, ""))
    except DataError:
        return f"not an image that Pillow can read: it starts with {data[:8]!r}"
    if fault is not None:
        return fault
    if data.startswith(JPEG_START) and not _has_jpeg_end(data):
        return "cut short: no JPEG end mark"
    if data.startswith(PNG_START) and PNG_END not in data:
        return "cut short: no PNG end chunk"
    return None


def decode_fault(data: bytes) -> str | None:
    """Return what is wrong with an image file, or None; every pixel is decoded."""
    fault = image_fault(data)
    if fault is not None:
        return fault
    try:
        open_image(data, "").load()
    # Decoders raise all kinds of errors on damaged data.
    except Exception as error:
        return f"cannot be decoded ({type(error).__name__}: {error})"
    return None


def resized(data: bytes, shorter_side: int) -> bytes:
    """Return a smaller copy of an image file as JPEG; files that are no larger stay as they are.

    Args:
        data: The image file.
        shorter_side: Shorter side of the copy, pixels.

    Raises:
        DataError: If the image cannot be decoded.
    """
    image = open_image(data, "")
    scale = shorter_side / min(image.size)
    if scale >= 1:
        return data
    size = (round(image.width * scale), round(image.height * scale))
    try:
        # Where the format allows it, only twice the target size is decoded.
        image.draft(None, (2 * size[0], 2 * size[1]))
        copy = upright(image, to_rgb(image).resize(size, Image.Resampling.LANCZOS))
    except Exception as error:
        raise DataError(f"cannot be decoded ({type(error).__name__}: {error})") from error
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _has_jpeg_end(data: bytes) -> bool:
    # Segments before the first scan are skipped by their lengths: a thumbnail among them has an
    # end mark too. Within scans 0xFF is escaped, so the mark cannot occur by chance.
    position = len(JPEG_START)
    while position + 4 <= len(data):
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            tail = max(position, len(data) - TAIL_BYTES)
            return data.find(JPEG_END, tail) != -1 or data.find(JPEG_END, position) != -1
        if marker == 0xFF:
            # A fill byte before the marker.
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
