"""Pictures, and files of them."""

import io

import numpy as np
from PIL import Image


def smooth_picture(width: int, height: int) -> Image.Image:
    """Return a picture without fine detail that differs in each corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    levels = np.stack([x, y, 0.5 + 0.5 * np.sin(7 * x + 5 * y)], axis=-1)
    return Image.fromarray((255 * levels).astype(np.uint8))


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()
