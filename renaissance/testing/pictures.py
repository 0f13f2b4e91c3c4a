"""Encoded pictures of every shape and mode that a dataset may hold."""

import io

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112


def pictures() -> dict[str, bytes]:
    """Return encoded pictures, by the names that messages use for them."""
    shapes = {f"a PNG of {w} x {h}": _png(noise(w, h)) for w, h in ((1, 1), (1, 500), (500, 1))}
    plain = noise(60, 45)
    transparent = plain.copy()
    transparent.putalpha(plain.convert("L"))
    deep = np.linspace(0, 65535, 60 * 45).reshape(45, 60).astype(np.uint16)
    modes = {
        f"a PNG of mode {picture.mode}": _png(picture)
        for picture in (
            plain,
            transparent,
            *(plain.convert(mode) for mode in ("1", "L", "LA", "P")),
            Image.fromarray(deep),
        )
    }
    photo = noise(640, 480)
    photos = {
        f"a JPEG of mode {picture.mode}": _encoded(picture, "JPEG")
        for picture in (photo, photo.convert("L"), photo.convert("CMYK"))
    }
    return shapes | modes | photos


def noise(width: int, height: int) -> Image.Image:
    """Return a picture of noise."""
    levels = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def turned(orientation: int) -> tuple[bytes, bytes]:
    """Return a picture stored rotated, with an EXIF orientation, and the same stored upright."""
    x, y = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 64))
    upright = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return _encoded(upright.transpose(turn), "PNG", exif=exif), _png(upright)


def _png(picture: Image.Image) -> bytes:
    return _encoded(picture, "PNG")


def _encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()
