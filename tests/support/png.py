"""PNG files as Pillow itself cannot write them."""

import struct
import zlib

START = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and its checksum."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def header(width: int, height: int, depth: int, colour: int, interlaced: int = 0) -> bytes:
    """Return the chunk of the header."""
    fields = (width, height, depth, colour, 0, 0, interlaced)
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))


def png(head: bytes, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """Return a PNG.

    Args:
        head: The chunk of the header.
        rows: Its rows, each with the byte of its filter.
        before: Chunks before the pixels.
        after: Chunks after the pixels.
    """
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return START + head + before + pixels + after + chunk(b"IEND", b"")
