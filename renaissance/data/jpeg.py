"""JPEG files without the metadata that could keep their pixels from being read."""

import re
from collections.abc import Iterator

JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
SCAN = 0xDA
MARKER = re.compile(rb"\xff[^\x00\xff]")
# Markers that are not followed by a length: restarts, start, end, and a temporary one.
WITHOUT_LENGTH = (*range(0xD0, 0xDA), 0x01)
# Application segments and comments, on which pixels do not depend.
METADATA = (*range(0xE0, 0xF0), 0xFE)
# Those that are kept, and the size that they must have: JFIF, EXIF or XMP with the orientation, and
# Adobe's colour transform.
KEPT = {0xE0: 14, 0xE1: 0, 0xEE: 12}
# The end mark is searched for in this many last bytes first: most files end with it.
TAIL_BYTES = 64


def without_metadata(data: memoryview) -> bytes:
    """Return a JPEG without the segments that neither pixels nor orientation depend on.

    Pillow refuses a picture with a damaged segment of metadata. Such a picture is whole. What lies
    between segments is left out too.
    """
    parts: list[bytes | memoryview] = [JPEG_START]
    for marker, start, stop in _segments(data):
        if marker not in METADATA or stop - start - 4 >= KEPT.get(marker, len(data)):
            parts.append(data[start:stop])
    return b"".join(parts)


def has_end(data: bytes) -> bool:
    """Return whether a JPEG has an end mark after its first scan; thumbnails have their own."""
    for marker, start, _ in _segments(memoryview(data)):
        if marker == SCAN:
            # Within scans 0xFF is escaped, so the mark cannot occur by chance.
            tail = max(start, len(data) - TAIL_BYTES)
            return data.find(JPEG_END, tail) != -1 or data.find(JPEG_END, start) != -1
    return False


def _segments(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment, where it starts and ends; the last is the first scan."""
    position = len(JPEG_START)
    # The junk between segments that decoders skip is skipped, as are fill bytes.
    while (found := MARKER.search(data, position)) is not None:
        start, marker = found.start(), data[found.end() - 1]
        if marker == SCAN:
            yield marker, start, len(data)
            return
        if marker in WITHOUT_LENGTH:
            position = found.end()
        else:
            position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
            yield marker, start, min(position, len(data))
