"""Generated pictures of coloured shapes with sentences about them; needs no files."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from renaissance import Dataset, DatasetContext, Sample, keyed_generator, option, positive

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = ("small", "big")
COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
# By axis: the relation of the first of two shapes to the second, and of the second to the first.
RELATIONS = {"x": ("left of", "right of"), "y": ("above", "below")}

RGB = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (235, 205, 30),
    "purple": (150, 50, 170),
    "black": (30, 30, 30),
}
# Radius as a share of the space for each shape.
RADIUS = {"small": 0.22, "big": 0.42}
BACKGROUND = 235
GREY = 127
NOISE = 6.0


def shapes_vocabulary() -> list[str]:
    """Return the special tokens and all words of the sentences."""
    relations = " ".join(phrase for pair in RELATIONS.values() for phrase in pair).split()
    words = dict.fromkeys(("a", *SIZES, *COLOURS, *SHAPES, "alone", *relations))
    return [*SPECIAL_TOKENS, *words]


@attrs.frozen
class Scene:
    """What a picture shows, as far as a sentence describes it.

    Attributes:
        objects: Size, colour and shape of each object, from left to right or top to bottom.
        axis: "x" if the objects are in a row, "y" if in a column, "" for one object.
    """

    objects: tuple[tuple[str, str, str], ...]
    axis: str


class Shapes(Dataset):
    """Generated pictures of one or more coloured shapes, each with a matching sentence.

    "a small red circle alone", "a big blue ring left of a small red cross". A sentence matches a
    picture if and only if it describes the same scene. The scene is the image's identifier: each
    scene has one picture, and pictures with different identifiers never share a sentence. A sample
    depends only on the run's seed and its index. Validation draws its own scenes and pictures: even
    for a scene that training has too, positions and noise differ.
    """

    provides = frozenset({"text", "image"})
    vocabulary = tuple(shapes_vocabulary())

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `shapes`."""

        num_samples: int = option(4096, help="Number of samples per epoch.", validator=positive)
        image_size: int = option(64, help="Side of the pictures, pixels.", validator=positive)
        max_shapes: int = option(
            2, help="Maximum number of shapes in a picture.", validator=positive
        )
        blank: bool = option(
            False, help="Make all pictures the same grey: a control that sees nothing."
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        self.options = options
        self._seed = context.seed
        self._purpose = "shapes/train" if context.training else "shapes/validate"

    def __len__(self) -> int:
        return self.options.num_samples

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample, the same in every epoch.

        Raises:
            IndexError: If the sample does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample: got {index}, expected 0 <= sample < {len(self)}")
        # Not `generator`, which is keyed by the epoch.
        scene_generator = keyed_generator(self._seed, 0, index, self._purpose)
        scene = _draw_scene(scene_generator, self.options.max_shapes)
        sentence = _sentence(scene, backwards=bool(scene_generator.random() < 0.5))
        # Equal identifiers must mean equal images, so the picture depends on the scene alone.
        picture_generator = keyed_generator(self._seed, 0, 0, f"{self._purpose}/{scene}")
        if self.options.blank:
            picture = Image.new("RGB", (self.options.image_size,) * 2, (GREY,) * 3)
        else:
            picture = _picture(scene, self.options, picture_generator)
        return Sample(sentence, images=(picture,), image_ids=(scene,), source=f"shapes: {index}")


def _draw_scene(generator: np.random.Generator, max_shapes: int) -> Scene:
    num_objects = int(generator.integers(1, max_shapes + 1))
    objects = tuple(
        (_choose(generator, SIZES), _choose(generator, COLOURS), _choose(generator, SHAPES))
        for _ in range(num_objects)
    )
    return Scene(objects, _choose(generator, tuple(RELATIONS)) if num_objects > 1 else "")


def _choose(generator: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(generator.integers(len(words)))]


def _sentence(scene: Scene, backwards: bool) -> str:
    phrases = [f"a {size} {colour} {shape}" for size, colour, shape in scene.objects]
    if not scene.axis:
        return f"{phrases[0]} alone"
    if backwards:
        phrases.reverse()
    return f" {RELATIONS[scene.axis][backwards]} ".join(phrases)


def _picture(scene: Scene, options: Shapes.Options, generator: np.random.Generator) -> Image.Image:
    side = options.image_size
    canvas = Image.new("RGB", (side, side), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    # All objects are on one line, so that "left of" is never "above" as well. The space for each is
    # the same however many there are, so that size does not reveal the number of objects.
    space, slot = side / options.max_shapes, side / len(scene.objects)
    widest = RADIUS["big"] * space
    line = generator.uniform(widest, side - widest)
    for index, (size, colour, shape) in enumerate(scene.objects):
        radius = RADIUS[size] * space
        along = generator.uniform(index * slot + radius, (index + 1) * slot - radius)
        x, y = (line, along) if scene.axis == "y" else (along, line)
        _draw_shape(draw, shape, x, y, radius, RGB[colour])
    pixels: NDArray[Any] = np.asarray(canvas) + generator.normal(0, NOISE, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...]
) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=max(1, round(radius * 0.45)))
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=fill)
    else:
        arm = radius / 3
        draw.rectangle((box[0], y - arm, box[2], y + arm), fill=fill)
        draw.rectangle((x - arm, box[1], x + arm, box[3]), fill=fill)
