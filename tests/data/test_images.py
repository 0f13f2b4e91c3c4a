"""Decoding, whatever the transform: modes, orientation, damage, and the limit of the size."""

import io
import struct

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from support import png
from support.pictures import encoded, smooth_picture

from renaissance import DataError, Transform, TransformContext
from renaissance.builtin.transforms.imagenet import ImageNet
from renaissance.builtin.transforms.pixelbert import PixelBERT
from renaissance.builtin.transforms.square import SquareTransform
from renaissance.builtin.transforms.stretch import Stretch
from renaissance.data.images import square_pixels, to_rgb
from renaissance.data.open_image import ImageLimits, open_image
from renaissance.data.prepare.image_files import decode_fault, image_fault

SIZE = 32
LIMIT = ImageLimits()
MEAN = (0.5, 0.5, 0.5)


def pixels(
    data: bytes | memoryview, size: int = SIZE, component: type[SquareTransform] = Stretch
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


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_a_buffer_of_an_arrow_file_is_the_same_as_its_bytes(file_format: str) -> None:
    # The bytes of pyarrow's buffers are signed, so the first scan of a JPEG was not found.
    data = encoded(smooth_picture(60, 40), file_format)
    assert np.array_equal(pixels(pa.array([data])[0].as_buffer()), pixels(data))
    assert pixels(data).std() > 20


def test_16_bit_grey_keeps_its_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1)).astype(np.uint16)
    result = pixels(encoded(Image.fromarray(ramp), "PNG"), size=64)
    assert np.abs(result[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_16_bit_grey_with_a_transparent_level() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1)).astype(np.uint16)
    data = encoded(Image.fromarray(ramp), "PNG", transparency=int(ramp[0, 20]))
    expected = np.linspace(0, 255, 64)
    expected[20] = 255
    assert np.abs(pixels(data, size=64)[0, :, 0] - expected).max() <= 1


def raw_png(depth: int, colour: int, row: bytes, key: bytes) -> bytes:
    """Return a PNG of 16 equal rows of 16 pixels with a transparent level or colour."""
    return png.png(png.header(16, 16, depth, colour), (b"\0" + row) * 16, png.chunk(b"tRNS", key))


def test_a_transparent_level_of_any_depth_is_found() -> None:
    # Levels 0, 1, 2 and 3 of 2 bits, of which 2 is transparent.
    result = pixels(raw_png(2, 0, b"\x1b" * 4, b"\0\2"), size=16)
    assert result[0, :4, 0].tolist() == [0, 85, 255, 255]
    # Levels 0 to 15 of 4 bits, of which 9 is transparent.
    row = bytes(16 * high + high + 1 for high in range(0, 16, 2))
    expected = [255 if level == 9 else 17 * level for level in range(16)]
    assert pixels(raw_png(4, 0, row, b"\0\x09"), size=16)[0, :, 0].tolist() == expected
    # 16 bits of red, of which the fifth is transparent.
    reds = [4000 * level for level in range(16)]
    row = b"".join(struct.pack(">HHH", red, 0, 0) for red in reds)
    result = pixels(raw_png(16, 2, row, struct.pack(">HHH", reds[5], 0, 0)), size=16)
    expected = [255 if level == 5 else red >> 8 for level, red in enumerate(reds)]
    assert result[0, :, 0].tolist() == expected


def test_16_bit_tiffs_and_pgms_keep_their_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1)).astype(np.uint16)
    expected = np.linspace(0, 255, 64)
    for data in (
        encoded(Image.fromarray(ramp), "TIFF"),
        b"P5 64 64 65535\n" + ramp.astype(">u2").tobytes(),
    ):
        assert np.abs(pixels(data, size=64)[0, :, 0] - expected).max() <= 1
    inverted = encoded(Image.fromarray(ramp), "TIFF", tiffinfo={262: 0})
    assert np.abs(pixels(inverted, size=64)[0, :, 0] - expected[::-1]).max() <= 1


def test_12_bit_tiffs_keep_their_range() -> None:
    # Pillow cannot write them: 16 rows of 16 pixels, two pixels in three bytes.
    levels = [273 * level for level in range(16)]
    pairs = [(left << 12) + right for left, right in zip(levels[::2], levels[1::2], strict=True)]
    rows = b"".join(pair.to_bytes(3, "big") for pair in pairs) * 16
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + directory
    assert pixels(data, size=16)[0, :, 0].tolist() == [level >> 4 for level in levels]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.float32, "floating-point numbers (mode F, TIFF)"),
        (np.int32, "signed or 32-bit integers (mode I, TIFF)"),
        (np.uint8, "signed or 32-bit integers (mode L, TIFF)"),
    ],
)
def test_levels_of_unknown_range_are_refused(levels: type, message: str) -> None:
    # Pillow cannot make pictures of signed bytes.
    tags = {339: 2} if levels is np.uint8 else {}
    data = encoded(Image.fromarray(np.full((16, 16), 1, levels)), "TIFF", tiffinfo=tags)
    fault = (
        f"image of {message}, which may have any range; expected 8 or 16 bits. Scale its levels to "
        "8 or 16 bits, and save it as PNG"
    )
    with pytest.raises(DataError) as error:
        pixels(data)
    assert str(error.value) == f"here: {fault}"
    with pytest.raises(DataError, match="which may have any range"):
        to_rgb(open_image(data, "here"))
    # Preparation leaves it out, checked or not.
    assert image_fault(data, LIMIT) == decode_fault(data, LIMIT) == fault


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
        "expected a whole file of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF. Replace "
        "it and prepare the data again, or let the run skip it with data.max_bad_samples"
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
        square_pixels(image, transform, generator, ImageLimits(59_999), "a.arrow: row 3")
    assert str(error.value) == (
        "a.arrow: row 3: image of 300 x 200 = 60000 pixels; expected at most 59999 "
        "(data.max_image_pixels). Scale it down, or raise the limit"
    )
    # Not a pixel of it was read: the file is still where the header ended.
    assert image.tile
    square_pixels(image, transform, generator, ImageLimits(60_000), "here")


@pytest.mark.filterwarnings("error")
def test_only_the_limit_of_the_run_counts() -> None:
    # More pixels than Pillow itself allows: 200 million.
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(DataError, match="200000000 pixels; expected at most 100000000"):
        pixels(data)
