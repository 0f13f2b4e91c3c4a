"""Keys of pictures: equal for equal content, different otherwise, and without decoding."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from renaissance.data.cache.image_key import KEY_BYTES, image_key
from renaissance.data.open_image import open_image


def encoded(level: int, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (level, 0, 0)).save(file, kind, **options)
    return file.getvalue()


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    images = [open_image(encoded(level), "x") for level in (1, 1, 2)]
    keys = [image_key(image) for image in images]
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) == KEY_BYTES for key in keys)
    # A plugin may open a file itself.
    (tmp_path / "a.png").write_bytes(encoded(3))
    image = Image.open(tmp_path / "a.png")
    key = image_key(image)
    (tmp_path / "b.png").write_bytes(encoded(4))
    assert key != image_key(Image.open(tmp_path / "b.png"))
    # It has not been decoded, and still can be.
    assert image.tile
    assert np.asarray(image)[0, 0].tolist() == [3, 0, 0]


def test_what_changes_the_pixels_changes_the_key() -> None:
    upright, turned = Image.Exif(), Image.Exif()
    upright[0x0112], turned[0x0112] = 1, 6
    assert image_key(open_image(encoded(1, "JPEG", exif=upright), "x")) != image_key(
        open_image(encoded(1, "JPEG", exif=turned), "x")
    )


def test_pictures_in_memory_have_keys() -> None:
    pictures = [Image.new("RGB", (2, 3), (level, 0, 0)) for level in (1, 1, 2)]
    pictures += [Image.new("RGB", (3, 2), (1, 0, 0)), Image.new("L", (2, 3), 1)]
    for colour in ((1, 1, 1), (2, 2, 2)):
        picture = Image.new("P", (2, 3))
        picture.putpalette(colour)
        pictures.append(picture)
    keys = [image_key(picture) for picture in pictures]
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1
