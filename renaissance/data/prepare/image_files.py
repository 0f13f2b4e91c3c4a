"""Whether an image file is whole, without decoding it."""

from renaissance.data.images import open_image
from renaissance.errors import DataError

JPEG_START = b"\xff\xd8"
JPEG_SCAN = 0xDA
JPEG_END = b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


def image_fault(data: bytes) -> str | None:
    """Say what is wrong with an image file, or None if it looks whole.

    The header is parsed, and JPEG and PNG files must have their end mark; pixels are not decoded,
    which would take most of the time of preparing a dataset.
    """
    if not data:
        return "the file is empty"
    try:
        open_image(data, "")
    except DataError:
        return f"no picture that Pillow reads: it starts with {data[:8]!r}"
    if data.startswith(JPEG_START) and not _has_jpeg_end(data):
        return "cut short: no JPEG end mark"
    if data.startswith(PNG_START) and PNG_END not in data:
        return "cut short: no PNG end chunk"
    return None


def _has_jpeg_end(data: bytes) -> bool:
    # Segments before the first scan are stepped over by their lengths: a thumbnail among them has
    # an end mark of its own. Within scans, 0xFF is escaped, so the mark cannot occur by chance.
    position = len(JPEG_START)
    while position + 4 <= len(data):
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return data.find(JPEG_END, position) != -1
        if marker == 0xFF:
            # A fill byte before the marker.
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
