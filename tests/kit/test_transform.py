"""Broken transforms: the kit says in words which promise is broken."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image
from support.sound_components import NoOptions, after_init, breaking

from renaissance import Transform, option, to_rgb, upright
from renaissance.testing import ContractError, check_transform

Generator = np.random.Generator


class SoundTransform(Transform):
    """Stretches a picture, and in training brightens it at random."""

    Options = NoOptions
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, options: Any, context: Any) -> None:
        self.size = context.image_size
        self.is_deterministic = not context.training

    def pixels(self, image: Image.Image, generator: Generator) -> Any:
        picture = upright(image, to_rgb(image).resize((self.size, self.size)))
        levels = np.asarray(picture).transpose(2, 0, 1)
        if not self.is_deterministic:
            levels = levels // 2 + np.uint8(generator.integers(100))
        return np.ascontiguousarray(levels)


def then(change: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Return a `pixels` that changes what the sound one returns."""

    def pixels(self: Any, image: Image.Image, generator: Generator) -> Any:
        return change(self, SoundTransform.pixels(self, image, generator))

    return {"pixels": pixels}


def first(change: Callable[[Any, Image.Image, Generator], Any]) -> dict[str, Any]:
    """Return a `pixels` that does something with its arguments before the sound one does."""

    def pixels(self: Any, image: Image.Image, generator: Generator) -> Any:
        replaced = change(self, image, generator)
        image = replaced if isinstance(replaced, Image.Image) else image
        return SoundTransform.pixels(self, image, generator)

    return {"pixels": pixels}


def claiming(is_deterministic: Any) -> dict[str, Any]:
    return {"__init__": after_init(lambda s: setattr(s, "is_deterministic", is_deterministic))}


def seen_before(self: Any, pixels: Any) -> Any:
    self.count = getattr(self, "count", 0) + 1
    return pixels + np.uint8(self.count)


def hand_made(self: Any, image: Image.Image, generator: Generator) -> Any:
    return np.asarray(image.resize((self.size, self.size))).transpose(2, 0, 1).copy()


def cropping(self: Any) -> dict[str, object]:
    """Crops where the transform stretches."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": self.size},
        "do_center_crop": True,
        "crop_size": {"height": self.size, "width": self.size},
    }


def turned_wrong(self: Any, image: Image.Image, generator: Generator) -> Image.Image:
    # A copy without EXIF data.
    return Image.fromarray(np.asarray(to_rgb(image)))


def blackened(self: Any, image: Image.Image, generator: Generator) -> None:
    if image.mode == "RGB":
        image.paste("black", (0, 0, 1, 1))


SECRET = attrs.make_class("O", {"size": attrs.field(default=1)}, frozen=True)
REQUIRED = attrs.make_class("O", {"size": option(help="A size.")}, frozen=True)

TRANSFORMS: list[tuple[dict[str, Any], str]] = [
    ({"__doc__": ""}, "declaration: .* Broken has no docstring"),
    ({"Options": SECRET}, "declaration: .* no help for size"),
    ({"Options": REQUIRED}, "options: it raised TypeError: .* missing 1 required"),
    ({"__init__": lambda self, options: None}, "__init__.* does not take the arguments"),
    ({"pixels": lambda self, image: None}, "pixels.* does not take the arguments"),
    ({"mean": (127.5, 127.5, 127.5)}, r"mean is \(127.5, .*, expected three numbers from 0 to 1"),
    ({"std": (0.5, 0.5, 0.0)}, "std is .*, expected three numbers from 0 to 1, .*, above 0"),
    ({"__init__": after_init(lambda s: s.nothing)}, "making: it raised AttributeError"),
    (claiming(None), "is_deterministic is None, expected True or False, set in __init__"),
    (claiming(False), "is_deterministic is False in evaluation, where nothing may be random"),
    (
        {**claiming(True), **first(lambda s, i, g: g.random())},
        "is_deterministic is True, but for a PNG of 1 x 1 it drew from the generator; set it",
    ),
    (then(lambda s, p: p // 2 if s.is_deterministic else p * 0), "16 states .* the same pixels"),
    (then(lambda s, p: p[:, 1:]), r"a PNG of 1 x 1 became \(3, 31, 32\) uint8, not C-contiguous"),
    (then(lambda s, p: p / 255), r"1 x 1 became \(3, 32, 32\) float64, expected a C-contiguous"),
    (then(lambda s, p: p.transpose(0, 2, 1)), r"\(3, 32, 32\) uint8, not C-contiguous, expected"),
    (then(lambda s, p: p.tolist()), "1 x 1 became list, expected a C-contiguous array"),
    ({"pixels": hand_made}, "pixels: a PNG of mode RGBA became .4, 32, 32"),
    (first(lambda s, i, g: 1 / (i.width // 60)), "for a PNG of 1 x 1 it raised ZeroDivisionErr"),
    (then(lambda s, p: p + np.uint8(np.random.randint(99))), "randomness: equal pictures and equ"),
    (then(seen_before), "different pixels; draw everything random from the generator"),
    (first(blackened), "images in memory: it changed the pixels of the RGB image"),
    (
        {"__init__": after_init(lambda s: setattr(s, "local", lambda: None))},
        r"workers: it cannot be pickled \(.*keep no open files, lambdas or local functions",
    ),
    (
        {"__getstate__": lambda self: {"size": 32, "is_deterministic": True}},
        "workers: a pickled copy, as loader workers get, gives other pixels",
    ),
    (
        {"image_processor": cropping},
        r"image_processor: the image processor .* differ by \d+\.\d of 255 levels",
    ),
    (
        first(turned_wrong),
        r"a picture of EXIF orientation 3 differs .* by \d+\.\d levels on average; apply ren",
    ),
]


@pytest.mark.parametrize(("attributes", "text"), TRANSFORMS)
def test_broken_transforms(
    attributes: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = breaking(SoundTransform, **{"__module__": __name__, **attributes})
    # Where pickling looks for the class.
    monkeypatch.setitem(globals(), "Broken", broken)
    with pytest.raises(ContractError, match=text):
        check_transform(broken)


def test_a_sound_transform_passes() -> None:
    check_transform(SoundTransform)
    check_transform(SoundTransform, image_size=7)


def test_all_violations_of_a_part_are_reported_at_once() -> None:
    broken = breaking(SoundTransform, **then(seen_before), **{"__doc__": "Broken."})
    with pytest.raises(ContractError) as caught:
        check_transform(broken)
    lines = str(caught.value).splitlines()
    assert lines[0] == "transform Broken breaks its contract:"
    assert [line.split(":")[0] for line in lines[1:]] == ["- randomness", "- workers"]
