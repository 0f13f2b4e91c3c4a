"""Opening: formats, limits, and metadata, the same in preparation, inspection and training."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import png
from support.arrow_files import write_arrow
from support.pictures import encoded, smooth_picture

from renaissance import DataError, ImageFile, TransformContext
from renaissance.builtin.transforms.stretch import Stretch
from renaissance.data.images import square_pixels, to_rgb
from renaissance.data.inspect import inspect_file
from renaissance.data.open_image import ImageFaultError, ImageLimits, open_image
from renaissance.data.prepare.image_files import decode_fault, image_fault, read_image, resized
from renaissance.spec.sections import DataSection

LIMITS = ImageLimits()
GREY = png.header(16, 16, 8, 0)
GREY_ROWS = (b"\0" + bytes(range(100, 116))) * 16
LARGE = zlib.compress(bytes(2 << 20))
JPEG = encoded(smooth_picture(40, 30), "JPEG")


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(after_start: bytes) -> bytes:
    return JPEG[:2] + after_start + JPEG[2:]


def train(data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    transform = Stretch(Stretch.Options(), TransformContext(16, False, Stretch.mean))
    generator = np.random.default_rng(0)
    return square_pixels(open_image(data, "here"), transform, generator, limits, "here")


METADATA = {
    "EXIF that is no TIFF": png.png(GREY, GREY_ROWS, png.chunk(b"eXIf", b"\0\x08\0\x02\x01\x12")),
    "EXIF after the pixels": png.png(GREY, GREY_ROWS, after=png.chunk(b"eXIf", b"II*\0")),
    "a large colour profile": png.png(GREY, GREY_ROWS, png.chunk(b"iCCP", b"p\0\0" + LARGE)),
    "a large comment": png.png(GREY, GREY_ROWS, png.chunk(b"zTXt", b"Comment\0\0" + LARGE)),
    "a large comment at the end": png.png(
        GREY, GREY_ROWS, after=png.chunk(b"zTXt", b"a\0\0" + LARGE)
    ),
    "a large text that may be EXIF": png.png(
        GREY, GREY_ROWS, png.chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE)
    ),
    "a large text that may be XMP": png.png(
        GREY, GREY_ROWS, png.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE)
    ),
    "EXIF as text that is no number": png.png(
        GREY, GREY_ROWS, png.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nxyz")
    ),
    "short gamma": png.png(GREY, GREY_ROWS, png.chunk(b"gAMA", b"") + png.chunk(b"pHYs", b"")),
    "a wrong checksum of a comment": png.png(
        GREY, GREY_ROWS, png.chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    ),
    "junk after the end": png.png(GREY, GREY_ROWS) + b"junk" * 9,
}
SEGMENTS = {
    "junk": bytes(3) + b"junk",
    "a lone 0xFF in junk": b"\xff\x00junk\xff\xff",
    "EXIF that is no TIFF": segment(0xE1, b"Exif\0\0\0\x08\0\x02"),
    "EXIF of two bytes": segment(0xE1, b"Exif\0\0II"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe\0"),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0"),
    "a short colour profile": segment(0xE2, b"ICC_PROFILE\0"),
    "several pictures that are not there": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\2\xb0"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "data",
    [*METADATA.values(), *map(jpeg_with, SEGMENTS.values())],
    ids=[*METADATA, *(f"JPEG: {name}" for name in SEGMENTS)],
)
def test_damaged_metadata_do_not_sink_a_picture(data: bytes, tmp_path: Path) -> None:
    plain = JPEG if data.startswith(b"\xff") else png.png(GREY, GREY_ROWS)
    assert np.array_equal(train(data), train(plain))
    # Where training reads a picture, the others do.
    assert image_fault(data, LIMITS) is None
    assert decode_fault(data, LIMITS) is None
    assert resized(data, 8, LIMITS) == resized(plain, 8, LIMITS)
    path = tmp_path / "a.arrow"
    write_arrow(path, [{"image": data, "caption": ["a"]}])
    faults = inspect_file(path, check=True).faults
    assert [fault for fault in faults if "row 0" in fault] == []


@pytest.mark.parametrize(
    "data",
    [
        png.png(GREY, GREY_ROWS)[:-1] + b"?",
        png.png(GREY, GREY_ROWS)[:-8],
        png.png(GREY, GREY_ROWS)[:-12],
    ],
    ids=["a wrong checksum of the end", "a cut end", "no end"],
)
def test_a_png_with_all_pixels_and_a_damaged_end_is_whole(data: bytes) -> None:
    assert np.array_equal(train(data), train(png.png(GREY, GREY_ROWS)))
    assert image_fault(data, LIMITS) is None
    assert decode_fault(data, LIMITS) is None


@pytest.mark.parametrize("keyword", [b"Raw profile type exif", b"XML:com.adobe.xmp"])
def test_the_orientation_is_read_from_texts_of_a_png_too(keyword: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes().hex().encode()
    text = b'<x tiff:Orientation="6"/>' if keyword.startswith(b"XML") else b"\nexif\n32\n" + content
    name, between = (b"iTXt", b"\0\1\0\0\0") if keyword.startswith(b"XML") else (b"zTXt", b"\0\0")
    comment = png.chunk(name, keyword + between + zlib.compress(text))
    upright = train(encoded(Image.open(io.BytesIO(png.png(GREY, GREY_ROWS))).rotate(-90), "PNG"))
    assert np.array_equal(train(png.png(GREY, GREY_ROWS, comment)), upright)


@pytest.mark.parametrize(
    "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"/* XPM */\n"]
)
def test_only_formats_of_pictures_are_opened(data: bytes) -> None:
    # Pillow hands EPS to Ghostscript, an interpreter.
    with pytest.raises(DataError, match=r"no known format; it starts with .*; expected a "):
        open_image(data, "here")
    assert str(decode_fault(data, LIMITS)).startswith("not an image that Pillow can read")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (png.png(GREY, GREY_ROWS).replace(b"IHDR", b"IHDX"), "a PNG with a damaged header"),
        (png.png(GREY[:-1] + b"?", GREY_ROWS), "a PNG with a damaged header"),
        (png.png(png.header(0, 16, 8, 0), GREY_ROWS), "a PNG with a damaged header"),
        (JPEG[:2] + JPEG[-2:], "a JPEG with a damaged header"),
        (b"GIF89a", "a GIF with a damaged header"),
        (
            b"II*\0" + bytes(9),
            "a TIFF with a damaged header, or of a kind that Pillow does not read",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of git-lfs to a file that was not fetched; run git lfs pull",
        ),
    ],
)
def test_a_damaged_header_is_no_unknown_format(data: bytes, cause: str) -> None:
    with pytest.raises(DataError) as error:
        open_image(data, "here")
    assert str(error.value).startswith(f"here: image cannot be decoded ({cause}); expected a whole")
    assert image_fault(data, LIMITS) == f"image cannot be decoded ({cause})"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_these_formats_are_opened(file_format: str) -> None:
    data = encoded(smooth_picture(40, 30), file_format)
    assert train(data).shape == (3, 16, 16)
    assert decode_fault(data, LIMITS) is None


def test_too_many_pixels_are_refused_by_all(tmp_path: Path) -> None:
    # A thousandth of its size in memory, which would be 2.5 GB.
    data = png.png(png.header(50_000, 50_000, 8, 0), bytes(50_001) * 1000)
    fault = (
        "image of 50000 x 50000 = 2500000000 pixels; expected at most 100000000 "
        "(data.max_image_pixels). Scale it down, or raise the limit"
    )
    assert image_fault(data, LIMITS) == decode_fault(data, LIMITS) == fault
    with pytest.raises(ImageFaultError, match="= 2500000000 pixels"):
        resized(data, 8, LIMITS)
    with pytest.raises(DataError) as error:
        train(data)
    assert str(error.value) == f"here: {fault}"
    path = tmp_path / "a.arrow"
    write_arrow(path, [{"image": data, "caption": ["a"]}])
    found = inspect_file(path, check=True).faults[-1]
    assert found == f"{path}: row 0: image: {fault.replace('data.max_image_', '--max-image-')}"


def test_too_many_bytes_are_refused_by_all(tmp_path: Path) -> None:
    # Metadata count, although they are not kept.
    data = png.png(GREY, GREY_ROWS, png.chunk(b"iCCP", bytes(5000)))
    limits = ImageLimits(max_bytes=5000)
    fault = (
        "image file of more than 5000 bytes, the limit (data.max_image_bytes). Compress it, or "
        "raise the limit"
    )
    assert image_fault(data, limits) == decode_fault(data, limits) == fault
    with pytest.raises(DataError) as error:
        train(data, limits)
    assert str(error.value) == f"here: {fault}"
    (tmp_path / "a.png").write_bytes(data)
    assert len(read_image(ImageFile(str(tmp_path / "a.png")), 5001)) == 5001
    assert train(data, ImageLimits(max_bytes=len(data))).shape == (3, 16, 16)


def test_a_run_and_the_commands_have_the_same_limits() -> None:
    section = DataSection()
    assert (section.max_image_pixels, section.max_image_bytes) == (
        LIMITS.max_pixels,
        LIMITS.max_bytes,
    )


def test_a_png_with_missing_rows_is_cut_short() -> None:
    # Its stream of pixels ends properly, and Pillow leaves the missing rows black.
    data = png.png(png.header(100, 1000, 8, 2), (b"\0" + b"\x80" * 300) * 10)
    fault = "image cannot be decoded (cut short: 3,010 of 301,000 bytes of pixels)"
    with pytest.raises(DataError) as error:
        train(data)
    assert str(error.value).startswith(f"here: {fault}; expected a whole file")
    assert decode_fault(data, LIMITS) == fault
    interlaced = png.png(png.header(100, 1000, 8, 2, 1), b"\1" * 3010)
    with pytest.raises(DataError, match=r"cannot be decoded \(OSError"):
        train(interlaced)
    # Black rows that are there are read.
    assert train(encoded(Image.new("RGB", (100, 1000)), "PNG")).max() == 0


def test_large_transparent_pictures_are_converted_in_strips() -> None:
    # The same as at once, at a fraction of the memory; the last strip is not a whole one.
    levels = np.random.default_rng(0).integers(0, 256, (701, 600, 4), dtype=np.uint8)
    picture = Image.fromarray(levels, "RGBA")
    white = Image.new("RGBA", picture.size, "white")
    expected = Image.alpha_composite(white, picture).convert("RGB")
    assert to_rgb(picture).tobytes() == expected.tobytes()
    deep = levels[..., 0].astype(np.uint16) * 256
    data = encoded(Image.fromarray(deep), "PNG")
    assert np.array_equal(np.asarray(to_rgb(open_image(data, "here")))[..., 0], levels[..., 0])


def test_the_error_of_a_picture_can_be_sent_by_a_loader_process() -> None:
    with pytest.raises(ImageFaultError) as error:
        open_image(b"?", "here")
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.fault) == (str(error.value), error.value.fault)
