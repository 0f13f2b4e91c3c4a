"""Decoding, whatever the transform: modes, orientation, damage, and the limit of the size."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from support.pictures import encoded, smooth_picture

from renaissance import DataError, Transform, TransformContext
from renaissance.builtin.transforms.imagenet import ImageNet
from renaissance.builtin.transforms.pixelbert import PixelBERT
from renaissance.builtin.transforms.square import SquareTransform
from renaissance.builtin.transforms.stretch import Stretch
from renaissance.data.images import open_image, square_pixels

SIZE = 32
LIMIT = 10**8
MEAN = (0.5, 0.5, 0.5)


def pixels(
    data: bytes, size: int = SIZE, component: type[SquareTransform] = Stretch
) -> NDArray[np.int64]:
    """Return the result as signed numbers, (size, size, 3)."""
    transform = component(component.Options(), TransformContext(size, False, MEAN))
    image, generator = open_image(data, "here"), np.random.default_rng(0)
    result = square_pixels(image, transform, generator, LIMIT, "here")
    return result.transpose(1, 2, 0).astype(np.int64)


def resized(picture: Image.Image, size: int = SIZE) -> NDArray[np.int64]:
    picture = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(np.int64)


def test_grey_and_palette_pictures_become_rgb() -> None:
    picture = smooth_picture(60, 40)
    grey = pixels(encoded(picture.convert("L"), "PNG"))
    assert np.array_equal(grey, resized(picture.convert("L")))
    palette = picture.convert("P")
    assert np.array_equal(pixels(encoded(palette, "PNG")), resized(palette))


def test_16_bit_grey_keeps_its_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1)).astype(np.uint16)
    result = pixels(encoded(Image.fromarray(ramp), "PNG"), size=64)
    assert np.abs(result[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 40))
    result = pixels(encoded(picture.convert(mode), "PNG"), size=40)
    assert (result[:, :15] == 255).all()
    assert (result[:, 25:] == 0).all()


def test_half_transparent_black_is_grey() -> None:
    result = pixels(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 128)), "PNG"))
    assert (result == 127).all()


def test_cmyk_jpegs_keep_their_colours() -> None:
    data = encoded(Image.new("RGB", (640, 480), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    result = pixels(data)
    assert open_image(data, "here").mode == "CMYK"
    assert np.abs(result - [200, 30, 60]).max() <= 4


@pytest.mark.parametrize("component", [ImageNet, PixelBERT, Stretch])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(component: type[SquareTransform], orientation: int) -> None:
    picture = smooth_picture(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    upright = encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), "PNG")
    difference = pixels(data, component=component) - pixels(upright, component=component)
    assert np.abs(difference).mean() < 1.5


def test_damaged_pictures_are_named() -> None:
    whole = encoded(smooth_picture(200, 200), "JPEG")
    with pytest.raises(DataError) as error:
        open_image(b"<html>not found</html>", "a.arrow: row 3")
    assert str(error.value) == (
        "a.arrow: row 3: image cannot be decoded (no known format; it starts with b'<html>no'); "
        "expected a whole JPEG, PNG or other picture that Pillow reads. Replace it and prepare the "
        "data again, or let the run skip it with data.max_bad_samples"
    )
    transform = Stretch(Stretch.Options(), TransformContext(SIZE, False, MEAN))
    generator = np.random.default_rng(0)
    for data in (whole[: len(whole) // 2], encoded(smooth_picture(200, 200), "PNG")[:-3000]):
        image = open_image(data, "b.arrow: row 7")
        with pytest.raises(DataError, match=r"^b\.arrow: row 7: image cannot be decoded \(OSError"):
            square_pixels(image, transform, generator, LIMIT, "b.arrow: row 7")


class Faulty(Transform):
    """Divides by zero once it has decoded a picture."""

    mean = std = MEAN
    is_deterministic = True

    def pixels(self, image: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
        image.load()
        return np.full((3, SIZE, SIZE), 1 // 0, np.uint8)


def test_a_defect_of_the_transform_is_no_damaged_picture() -> None:
    # Or else data.max_bad_samples would let a run skip it.
    transform = Faulty(None, TransformContext(SIZE, False, MEAN))
    generator = np.random.default_rng(0)
    whole = encoded(smooth_picture(200, 200), "PNG")
    with pytest.raises(ZeroDivisionError):
        square_pixels(open_image(whole, "here"), transform, generator, LIMIT, "here")
    with pytest.raises(DataError, match=r"^here: image cannot be decoded \(OSError: "):
        square_pixels(open_image(whole[:500], "here"), transform, generator, LIMIT, "here")


def test_too_many_pixels_are_refused_before_decoding() -> None:
    image = open_image(encoded(Image.new("L", (300, 200)), "PNG"), "here")
    transform = Stretch(Stretch.Options(), TransformContext(SIZE, False, MEAN))
    generator = np.random.default_rng(0)
    with pytest.raises(DataError) as error:
        square_pixels(image, transform, generator, 59_999, "a.arrow: row 3")
    assert str(error.value) == (
        "a.arrow: row 3: image of 300 x 200 = 60000 pixels; expected at most 59999 "
        "(data.max_image_pixels). Scale it down, or raise the limit"
    )
    # Not a pixel of it was read: the file is still where the header ended.
    assert image.tile
    square_pixels(image, transform, generator, 60_000, "here")


@pytest.mark.filterwarnings("error")
def test_only_the_limit_of_the_run_counts() -> None:
    # More pixels than Pillow itself allows: 200 million.
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(DataError, match="200000000 pixels; expected at most 100000000"):
        pixels(data)
