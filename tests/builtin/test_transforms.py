"""Image transforms: what is shown of a picture, and what training does to it."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from support.pictures import encoded, smooth_picture
from transformers import ViTImageProcessor

from renaissance import Transform, TransformContext
from renaissance.builtin.transforms.augmentation import AugmentationOptions
from renaissance.builtin.transforms.cut import Cut, random_cut
from renaissance.builtin.transforms.randaugment import OPERATIONS, RandAugment
from renaissance.data.open_image import open_image
from renaissance.plugins.loading import load_plugins
from renaissance.testing import check_transform

SIZE = 32
MEAN = (0.5, 0.5, 0.5)
COMPONENTS: dict[str, Any] = {
    r.name: r.component
    for r in load_plugins(["transform"]).registry
    if r.distribution == "renaissance"
}
# What is off by a factor of this many standard deviations is met once in two million.
SIGMAS = 5


def make(
    name: str = "imagenet",
    size: int = SIZE,
    training: bool = True,
    mean: tuple[float, float, float] = MEAN,
    **options: Any,
) -> Transform:
    component = COMPONENTS[name]
    made: Transform = component(
        component.Options(**options), TransformContext(size, training, mean)
    )
    return made


def pixels(
    data: bytes, name: str = "imagenet", size: int = SIZE, state: int = 0, **options: Any
) -> NDArray[np.int64]:
    """Return the result as signed numbers, (size, size, 3)."""
    generator = np.random.default_rng(state)
    result = make(name, size, **options).pixels(open_image(data, "here"), generator)
    return result.transpose(1, 2, 0).astype(np.int64)


def resized(picture: Image.Image, size: tuple[int, int], **options: Any) -> NDArray[np.int64]:
    picture = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC, **options)
    return np.asarray(picture).astype(np.int64)


def resized_and_cropped(picture: Image.Image, size: int) -> NDArray[np.int64]:
    """Do what torchvision's Resize(size, BICUBIC) and CenterCrop(size) do."""
    width, height = picture.size
    short = min(width, height)
    whole = (size * width // short, size * height // short)
    left, top = round((whole[0] - size) / 2), round((whole[1] - size) / 2)
    return resized(picture, whole)[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"randaugment": True},
        {"random_resized_crop": (0.08, 1.0)},
        {"horizontal_flip": 0.5},
        {"randaugment": True, "random_resized_crop": (0.5, 0.5), "horizontal_flip": 0.1},
    ],
)
@pytest.mark.parametrize("name", COMPONENTS)
def test_every_transform_keeps_its_contract(name: str, options: dict[str, Any]) -> None:
    component = COMPONENTS[name]
    check_transform(component, component.Options(**options))
    check_transform(component, component.Options(**options), image_size=33)


def test_the_normalizations() -> None:
    found = {name: (component.mean, component.std) for name, component in COMPONENTS.items()}
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert found == {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "vit": half,
        "pixelbert": half,
        "stretch": half,
    }


# --- geometry ---


@pytest.mark.parametrize("shape", [(100, 75), (75, 100), (32, 32), (640, 33), (33, 500), (20, 11)])
@pytest.mark.parametrize("name", ["imagenet", "clip", "vit"])
def test_the_shorter_side_is_resized_and_the_centre_kept(name: str, shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    result = pixels(encoded(picture, "PNG"), name)
    # One level for rounding: resizing only the part that is kept starts at another place.
    assert np.abs(result - resized_and_cropped(picture, SIZE)).max() <= 1


def test_the_centre_by_hand() -> None:
    # 100 x 75 becomes 42 x 32, of which the columns from 5 to 37 are kept.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8))
    expected = resized(noise, (32, 32), box=(5 * 100 / 42, 0, 37 * 100 / 42, 75))
    assert np.array_equal(pixels(encoded(noise, "PNG")), expected)


@pytest.mark.parametrize("shape", [(100, 50), (50, 100)])
def test_pixelbert_keeps_the_whole_picture_on_the_mean_colour(shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    result = pixels(encoded(picture, "PNG"), "pixelbert")
    if shape[0] < shape[1]:
        result = result.transpose(1, 0, 2)
    assert (result[:8] == 128).all()
    assert (result[24:] == 128).all()
    small = (32, 16) if shape[0] > shape[1] else (16, 32)
    expected = resized(picture, small)
    expected = expected if shape[0] > shape[1] else expected.transpose(1, 0, 2)
    assert np.array_equal(result[8:24], expected)


def test_pixelbert_by_hand() -> None:
    # 90 x 50 becomes 32 x 17 (17.8 rounded down), below 7 rows of background and above 8.
    picture = smooth_picture(90, 50)
    result = pixels(encoded(picture, "PNG"), "pixelbert", mean=(0.1, 0.2, 0.3))
    assert (result[:7] == [26, 51, 76]).all()
    assert np.array_equal(result[7:24], resized(picture, (32, 17)))
    assert (result[24:] == [26, 51, 76]).all()
    # A line of 1 x 500 keeps a pixel of width.
    line = pixels(encoded(Image.new("RGB", (1, 500), "red"), "PNG"), "pixelbert", mean=(0, 0, 0))
    assert (line[:, 15] == [255, 0, 0]).all()
    assert line.sum() == 32 * 255


@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (32, 32), (500, 3), (1, 1)])
def test_stretch_shows_the_whole_picture(shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    assert np.array_equal(pixels(encoded(picture, "PNG"), "stretch"), resized(picture, (32, 32)))


def test_stretch_is_what_the_image_processor_of_vit_does() -> None:
    picture = smooth_picture(200, 120)
    ours = pixels(encoded(picture, "PNG"), "stretch")
    for resample, tolerance in (
        (Image.Resampling.BICUBIC, 1.0),
        (Image.Resampling.BILINEAR, 8.0),
    ):
        processor = ViTImageProcessor(
            size={"height": 32, "width": 32},
            resample=resample,
            do_rescale=False,
            do_normalize=False,
        )
        theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
        difference = np.abs(ours - theirs.transpose(1, 2, 0))
        assert difference.max() <= tolerance
        assert difference.mean() <= 1


# --- decoding at a fraction of the size ---


@pytest.mark.parametrize(
    ("name", "shape", "decoded"),
    [
        ("imagenet", (640, 480), (320, 240)),
        ("imagenet", (2000, 1000), (500, 250)),
        ("imagenet", (447, 447), (447, 447)),
        # Only the longer side needs 224 pixels.
        ("pixelbert", (2000, 1000), (250, 125)),
        ("pixelbert", (447, 300), (447, 300)),
        # Both sides do.
        ("stretch", (2000, 1000), (500, 250)),
        ("stretch", (4000, 448), (2000, 224)),
    ],
)
def test_jpegs_are_decoded_no_smaller_than_needed(
    name: str, shape: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = open_image(encoded(smooth_picture(*shape), "JPEG", quality=90), "here")
    make(name, size=224).pixels(image, np.random.default_rng(0))
    assert image.size == decoded


def test_a_random_box_is_decoded_no_smaller_than_needed() -> None:
    data = encoded(smooth_picture(2000, 1500), "JPEG", quality=90)
    transform = make(size=224, random_resized_crop=(0.02, 1.0))
    scales = set()
    for state in range(60):
        image = open_image(data, "here")
        transform.pixels(image, np.random.default_rng(state))
        scale = 2000 // image.width
        cut = random_cut(2000, 1500, 224, (0.02, 1.0), np.random.default_rng(state))
        left, upper, right, lower = cut.box
        side = min(right - left, lower - upper)
        assert side / scale >= 224 or scale == 1
        # Half of it would not do.
        assert side / (2 * scale) < 224
        scales.add(scale)
    assert scales == {1, 2, 4}


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


# --- random boxes ---


def test_random_boxes_have_the_areas_and_shapes_that_they_should() -> None:
    side, num_boxes, area_range = 1000, 4000, (0.1, 0.5)
    # Of a square, a half at 4 : 3 is 816 pixels wide: every box fits, and none is drawn again.
    generator = np.random.default_rng(0)
    boxes = np.array(
        [random_cut(side, side, 8, area_range, generator).box for _ in range(num_boxes)]
    )
    left, upper, right, lower = boxes.T
    width, height = right - left, lower - upper
    # Each of these is uniform on [0, 1].
    uniform = {
        "area": (width * height / side**2 - 0.1) / 0.4,
        "aspect ratio": np.log(width / height) / (2 * math.log(4 / 3)) + 0.5,
        "left": (left + 0.5) / (side - width + 1),
        "upper": (upper + 0.5) / (side - height + 1),
    }
    for name, values in uniform.items():
        ordered = np.sort(values)
        steps = (np.arange(num_boxes) + 0.5) / num_boxes
        # Kolmogorov and Smirnov: exceeded once in two million.
        assert np.abs(ordered - steps).max() < math.sqrt(7.6 / num_boxes), name
    # And independent of one another.
    correlations = np.corrcoef(list(uniform.values())) - np.eye(len(uniform))
    assert np.abs(correlations).max() < SIGMAS / math.sqrt(num_boxes)


def test_the_whole_picture_at_most() -> None:
    generator = np.random.default_rng(0)
    for width, height in ((1, 1), (3, 2), (1, 500), (500, 1), (300, 200), (97, 101)):
        for _ in range(200):
            left, upper, right, lower = random_cut(width, height, 8, (0.08, 1.0), generator).box
            assert 0 <= left < right <= width
            assert 0 <= upper < lower <= height


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        # No box of all the area has an aspect ratio from 3 : 4 to 4 : 3 here.
        ((400, 100), (133, 0, 266, 100)),
        ((100, 400), (0, 133, 100, 266)),
        ((500, 1), (249, 0, 250, 1)),
    ],
)
def test_the_centre_where_no_box_fits(
    shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    for state in range(20):
        cut = random_cut(*shape, 8, (1.0, 1.0), np.random.default_rng(state))
        assert cut == Cut(shape, box, (8, 8))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_random_box_is_stretched_to_the_square(name: str) -> None:
    picture = smooth_picture(200, 150)
    data = encoded(picture, "PNG")
    for state in range(10):
        generator = np.random.default_rng(state)
        # As torchvision draws it: share of the area, aspect ratio, then the corner.
        area = 200 * 150 * generator.uniform(0.2, 0.4)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        left, top = int(generator.integers(200 - width + 1)), int(generator.integers(151 - height))
        box = (left, top, left + width, top + height)
        result = pixels(data, name, state=state, random_resized_crop=(0.2, 0.4))
        difference = np.abs(result - resized(picture.crop(box), (SIZE, SIZE)))
        # Resizing a box of a picture sees what lies beside it; a crop ends at its edge.
        assert difference[2:-2, 2:-2].max() <= 1
        assert difference.max() <= 4


def test_a_random_box_of_a_turned_picture_is_upright() -> None:
    picture = smooth_picture(120, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    result = pixels(stored, state=3, random_resized_crop=(0.3, 0.3))
    # Red grows to the right and green downwards.
    assert (np.diff(result[..., 0].mean(0)) > 0).all()
    assert (np.diff(result[..., 1].mean(1)) > 0).all()


# --- mirrored images ---


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_flip_is_a_mirror_image(name: str) -> None:
    data = encoded(smooth_picture(100, 50), "PNG")
    plain = pixels(data, name)
    mirrored = np.asarray(ImageOps.mirror(Image.fromarray(plain.astype(np.uint8))))
    num_images, num_flipped = 200, 0
    for state in range(num_images):
        result = pixels(data, name, state=state, horizontal_flip=0.25)
        is_flipped = np.array_equal(result, mirrored)
        assert is_flipped or np.array_equal(result, plain)
        num_flipped += is_flipped
    assert abs(num_flipped - 50) < SIGMAS * math.sqrt(num_images * 0.25 * 0.75)


# --- in training only, and by the generator only ---


def test_augmentation_is_a_function_of_the_generator() -> None:
    data = encoded(smooth_picture(80, 60), "JPEG")
    for options in ({"randaugment": True}, {"random_resized_crop": (0.08, 1.0)}):
        results = [pixels(data, state=state, **options) for state in range(12)]
        again = [pixels(data, state=state, **options) for state in range(12)]
        assert all(map(np.array_equal, results, again))
        assert len({result.tobytes() for result in results}) >= 10


@pytest.mark.parametrize(
    "options",
    [{"randaugment": True}, {"random_resized_crop": (0.1, 0.2)}, {"horizontal_flip": 0.9}],
)
@pytest.mark.parametrize("name", COMPONENTS)
def test_augmentation_is_for_training_only(name: str, options: dict[str, Any]) -> None:
    data = encoded(smooth_picture(80, 60), "PNG")
    assert make(name).is_deterministic
    assert not make(name, **options).is_deterministic
    assert make(name, training=False, **options).is_deterministic
    plain = pixels(data, name)
    assert not all(np.array_equal(pixels(data, name, state=i, **options), plain) for i in range(9))
    for state in range(9):
        evaluated = pixels(data, name, state=state, training=False, **options)
        assert np.array_equal(evaluated, plain)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("randaugment_magnitude", 31, "got 31, expected an integer from 0 to 30"),
        ("randaugment_magnitude", -1, "got -1, expected an integer from 0 to 30"),
        ("randaugment_num_ops", 0, "got 0, expected a number above 0"),
        ("horizontal_flip", 1.0, "got 1.0, expected 0 <= value < 1"),
        (
            "random_resized_crop",
            (0.0, 1.0),
            r"got \[0.0, 1.0\], expected the smallest and the largest share of the picture's area, "
            r"0 < smallest <= largest <= 1, such as \[0.08, 1.0\]",
        ),
        ("random_resized_crop", (0.5, 0.4), r"got \[0.5, 0.4\], expected the smallest"),
        ("random_resized_crop", (0.5, 1.1), r"got \[0.5, 1.1\], expected the smallest"),
    ],
)
def test_options_out_of_range(option: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AugmentationOptions(**{option: value})


# --- RandAugment ---


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
