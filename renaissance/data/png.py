"""PNG files without the metadata that could keep their pixels from being read."""

import struct
import zlib
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
# Chunks that are kept although decoders may skip them. EXIF data are ignored if they are damaged.
KEPT = (b"tRNS", b"eXIf")
# Texts that may hold the orientation, and their largest size, bytes, as in Pillow.
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
MAX_TEXT_BYTES = 1 << 20
INFLATED_AT_ONCE = 1 << 20
# By colour type.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def without_metadata(data: memoryview) -> bytes:
    """Return a PNG without the chunks that neither pixels nor orientation depend on.

    Pillow refuses a picture with a damaged comment or a large colour profile, and one with junk
    after its end. Such a picture is whole.
    """
    parts: list[bytes | memoryview] = [PNG_START]
    for name, start, stop in _chunks(data):
        # The names of critical chunks begin with a capital letter.
        is_text = name in TEXTS and _is_safe(name, data[start + 8 : stop])
        if not name[:1].islower() or name in KEPT or is_text:
            parts.append(data[start : stop + 4])
    return b"".join(parts)


def missing_pixels(data: bytes) -> str | None:
    """Return how much of a PNG's pixel data is missing, or None; it is inflated, but not kept.

    Pillow leaves rows black that are missing from a complete stream.
    """
    content = memoryview(data)
    chunks = list(_chunks(content))
    header = next(content[start + 8 : stop] for name, start, stop in chunks if name == b"IHDR")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * CHANNELS[colour]
    if interlaced:
        # Pillow finds these itself.
        return None
    # Each row begins with the byte of its filter.
    expected = height * (1 + (width * bits + 7) // 8)
    actual = 0
    inflater = zlib.decompressobj()
    for name, start, stop in chunks:
        rest: bytes | memoryview = content[start + 8 : stop] if name == b"IDAT" else b""
        while rest and actual < expected:
            try:
                actual += len(inflater.decompress(rest, INFLATED_AT_ONCE))
            except zlib.error:
                return "damaged pixels"
            rest = inflater.unconsumed_tail
    if actual >= expected:
        return None
    return f"cut short: {actual:,} of {expected:,} bytes of pixels"


def _chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, where it starts, and where its content ends."""
    start = len(PNG_START)
    name = b""
    while start < len(data) and name != b"IEND":
        name = bytes(data[start + 4 : start + 8])
        stop = start + 8 + int.from_bytes(data[start : start + 4], "big")
        yield name, start, stop
        start = stop + 4


def _is_safe(name: bytes, content: memoryview) -> bool:
    """Return whether a text may hold the orientation and is small."""
    if len(content) > MAX_TEXT_BYTES:
        return False
    keyword, _, text = bytes(content).partition(b"\0")
    if keyword not in ORIENTATION_TEXTS or name == b"tEXt":
        return keyword in ORIENTATION_TEXTS
    if name == b"zTXt":
        # The method, which is always 0, and the compressed text.
        return text.startswith(b"\0") and _inflates(text[1:])
    # Whether it is compressed, the method, the language, the translated keyword, and the text.
    fields = text[2:].split(b"\0", 2)
    return len(fields) == 3 and (text[:1] == b"\0" or _inflates(fields[2]))


def _inflates(data: bytes) -> bool:
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(data, MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not inflater.unconsumed_tail
