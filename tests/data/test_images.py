import io
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from renaissance import DataError
from renaissance.data.images import ImageTransform, open_image
from renaissance.data.randaugment import OPERATIONS, RandAugment
from renaissance.spec.sections import TransformSection

SIZE = 32
LIMIT = 10**8


def smooth_picture(width: int, height: int) -> Image.Image:
    """A picture with content in every place and no fine detail, different in each corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    levels = np.stack([x, y, 0.5 + 0.5 * np.sin(7 * x + 5 * y)], axis=-1)
    return Image.fromarray((255 * levels).astype(np.uint8))


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def make(name: str = "imagenet", size: int = SIZE, **options: object) -> ImageTransform:
    return ImageTransform(TransformSection(name=name, **options), size, True, LIMIT)


def pixels(data: bytes, name: str = "imagenet", size: int = SIZE) -> NDArray[np.int64]:
    """The result as signed numbers, (size, size, 3)."""
    result = make(name, size)(open_image(data, "here"), None, "here")
    assert result.shape == (3, size, size)
    assert result.dtype == np.uint8
    assert result.flags["C_CONTIGUOUS"]
    return result.transpose(1, 2, 0).astype(np.int64)


def resized_and_cropped(picture: Image.Image, size: int) -> NDArray[np.int64]:
    """What torchvision's Resize(size, BICUBIC) and CenterCrop(size) do."""
    width, height = picture.size
    short = min(width, height)
    resized = (size * width // short, size * height // short)
    picture = picture.convert("RGB").resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size))).astype(np.int64)


@pytest.mark.parametrize("shape", [(100, 75), (75, 100), (32, 32), (640, 33), (33, 500), (20, 11)])
@pytest.mark.parametrize("name", ["imagenet", "clip", "vit"])
def test_the_shorter_side_is_resized_and_the_centre_kept(name: str, shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    result = pixels(encoded(picture, "PNG"), name)
    # One level for rounding: resizing only the part that is kept starts at another place.
    assert np.abs(result - resized_and_cropped(picture, SIZE)).max() <= 1


@pytest.mark.parametrize("shape", [(100, 50), (50, 100)])
def test_pixelbert_keeps_the_whole_picture_on_the_mean_colour(shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    result = pixels(encoded(picture, "PNG"), "pixelbert")
    if shape[0] < shape[1]:
        result = result.transpose(1, 0, 2)
    assert (result[:8] == 128).all()
    assert (result[24:] == 128).all()
    small = (32, 16) if shape[0] > shape[1] else (16, 32)
    expected = np.asarray(picture.resize(small, Image.Resampling.BICUBIC)).astype(np.int64)
    expected = expected if shape[0] > shape[1] else expected.transpose(1, 0, 2)
    assert np.array_equal(result[8:24], expected)


def test_normalization_goes_with_the_name_unless_given() -> None:
    assert make("imagenet").mean == (0.485, 0.456, 0.406)
    assert make("imagenet").std == (0.229, 0.224, 0.225)
    assert make("clip").mean == (0.48145466, 0.4578275, 0.40821073)
    assert make("vit").mean == make("vit").std == make("pixelbert").std == (0.5, 0.5, 0.5)
    own = make("clip", mean=(0.1, 0.2, 0.3))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), make("clip").std)


@pytest.mark.parametrize(
    ("shape", "decoded"),
    [((640, 480), (320, 240)), ((2000, 1000), (500, 250)), ((447, 447), (447, 447))],
)
def test_jpegs_are_decoded_no_smaller_than_needed(
    shape: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = open_image(encoded(smooth_picture(*shape), "JPEG", quality=90), "here")
    make(size=224)(image, None, "here")
    assert image.size == decoded
    assert min(image.size) >= 224


def test_scaled_decoding_is_close_to_a_full_decode() -> None:
    picture = smooth_picture(1280, 960)
    data = encoded(picture, "JPEG", quality=90)
    full = resized_and_cropped(Image.open(io.BytesIO(data)), 224)
    assert np.abs(pixels(data, size=224) - full).mean() < 0.5


def test_scaled_decoding_is_close_on_real_photos() -> None:
    root = os.environ.get("RENAISSANCE_SHARED_DATA")
    if root is None:
        pytest.skip("RENAISSANCE_SHARED_DATA names no folder of real photos")
    files = [path.read_bytes() for path in sorted(Path(root, "coco").rglob("*.jpg"))[:30]]
    differences = [
        np.abs(
            pixels(data, size=224)
            - resized_and_cropped(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), 224)
        ).mean()
        for data in files
    ]
    assert len(differences) == 30
    assert np.mean(differences) < 2.5
    assert max(differences) < 8


def test_grey_and_palette_pictures_become_rgb() -> None:
    picture = smooth_picture(60, 40)
    grey = pixels(encoded(picture.convert("L"), "PNG"))
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey - resized_and_cropped(picture.convert("L"), SIZE)).max() <= 1
    palette = picture.convert("P")
    result = pixels(encoded(palette, "PNG"))
    assert np.abs(result - resized_and_cropped(palette.convert("RGB"), SIZE)).max() <= 1


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


@pytest.mark.parametrize("name", ["imagenet", "pixelbert"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(name: str, orientation: int) -> None:
    picture = smooth_picture(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    result = pixels(data, name)
    assert np.abs(result - pixels(encoded(upright, "PNG"), name)).mean() < 1.5


def test_damaged_pictures_are_named() -> None:
    whole = encoded(smooth_picture(200, 200), "JPEG")
    with pytest.raises(DataError) as error:
        open_image(b"<html>not found</html>", "a.arrow: row 3")
    assert str(error.value) == (
        "a.arrow: row 3: image cannot be decoded (no known format; it starts with b'<html>no'); "
        "expected a whole JPEG, PNG or other picture that Pillow reads. Replace it and prepare the "
        "data again, or let the run skip it with data.max_bad_samples"
    )
    for data in (whole[: len(whole) // 2], encoded(smooth_picture(200, 200), "PNG")[:-3000]):
        image = open_image(data, "b.arrow: row 7")
        with pytest.raises(DataError, match=r"^b\.arrow: row 7: image cannot be decoded \(OSError"):
            make()(image, None, "b.arrow: row 7")


def test_too_many_pixels_are_refused_before_decoding() -> None:
    image = open_image(encoded(Image.new("L", (300, 200)), "PNG"), "here")
    transform = ImageTransform(TransformSection(), SIZE, True, max_image_pixels=59_999)
    with pytest.raises(DataError) as error:
        transform(image, None, "a.arrow: row 3")
    assert str(error.value) == (
        "a.arrow: row 3: image of 300 x 200 = 60000 pixels; expected at most 59999 "
        "(data.max_image_pixels). Scale it down, or raise the limit"
    )
    # Not a pixel of it was read: the file is still where the header ended.
    assert image.tile
    ImageTransform(TransformSection(), SIZE, True, max_image_pixels=60_000)(image, None, "here")


@pytest.mark.filterwarnings("error")
def test_only_the_limit_of_the_run_counts() -> None:
    # More pixels than Pillow itself allows: 200 million.
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    image = open_image(data, "here")
    with pytest.raises(DataError, match="200000000 pixels; expected at most 100000000"):
        make()(image, None, "here")


def test_augmentation_is_a_function_of_the_generator() -> None:
    data = encoded(smooth_picture(80, 60), "JPEG")

    def augmented(seed: int) -> NDArray[np.uint8]:
        transform = make(randaugment=True)
        return transform(open_image(data, ""), np.random.default_rng(seed), "")

    results = [augmented(seed) for seed in range(12)]
    assert all(np.array_equal(augmented(seed), results[seed]) for seed in range(12))
    assert len({result.tobytes() for result in results}) >= 10


def test_augmentation_is_for_training_only() -> None:
    section = TransformSection(randaugment=True)
    assert not ImageTransform(section, SIZE, True, LIMIT).deterministic
    assert ImageTransform(TransformSection(), SIZE, True, LIMIT).deterministic
    evaluation = ImageTransform(section, SIZE, False, LIMIT)
    assert evaluation.deterministic
    data = encoded(smooth_picture(80, 60), "PNG")
    plain = make()(open_image(data, ""), None, "")
    assert np.array_equal(evaluation(open_image(data, ""), None, ""), plain)
    with pytest.raises(ValueError, match="augmentation needs a generator"):
        make(randaugment=True)(open_image(data, ""), None, "")


@pytest.mark.parametrize("choice", range(len(OPERATIONS)))
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations_keep_size_and_mode(choice: int, magnitude: int) -> None:
    operation, low, high, _ = OPERATIONS[choice]
    picture = smooth_picture(48, 32)
    result = operation(picture, low + magnitude / 30 * (high - low))
    assert (result.size, result.mode) == ((48, 32), "RGB")


def test_operations_do_what_their_names_say() -> None:
    named = {operation.__name__: operation for operation, *_ in OPERATIONS}
    assert len(named) == 14
    levels = np.array([[[0, 100, 200]]], dtype=np.uint8)
    pixel = Image.fromarray(levels)

    def after(name: str, value: float) -> list[int]:
        return np.asarray(named[name](pixel, value))[0, 0].tolist()

    assert after("_solarize", 150) == [0, 100, 55]
    # 50, 150 and 250, of which those from 128 are inverted.
    assert after("_solarize_add", 50) == [50, 105, 5]
    assert after("_posterize", 1.2) == [0, 0, 128]
    assert after("_brightness", 0.5) == [0, 50, 100]
    assert after("_color", 0.0)[0] == after("_color", 0.0)[2]
    picture = smooth_picture(40, 40)
    moved = np.asarray(named["_translate_x"](picture, 0.25))
    assert np.array_equal(moved[:, :30], np.asarray(picture)[:, 10:])
    assert (moved[:, 30:] == 0).all()
    assert np.array_equal(named["_rotate"](picture, 90.0), picture.rotate(90))


def test_magnitude_and_number_of_operations_count() -> None:
    picture = smooth_picture(40, 40)
    assert RandAugment(0, 9)(picture, np.random.default_rng(0)) is picture
    weak = RandAugment(1, 0)
    strong = RandAugment(1, 30)
    changes = [
        [
            np.abs(np.asarray(a(picture, np.random.default_rng(s))).astype(int) - picture).mean()
            for s in range(60)
        ]
        for a in (weak, strong)
    ]
    assert changes[0] != changes[1]
    with pytest.raises(ValueError, match="got 31, expected 0 to 30"):
        RandAugment(2, 31)
