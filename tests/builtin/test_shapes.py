from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from renaissance import DatasetContext, Sample
from renaissance.builtin.datasets.shapes import (
    BACKGROUND,
    COLOURS,
    RGB,
    SHAPES,
    SIZES,
    Shapes,
    shapes_vocabulary,
)

UNUSED = np.random.default_rng(0)


def make(seed: int = 0, training: bool = True, **options: int | bool) -> Shapes:
    context = DatasetContext(root=Path(), seed=seed, training=training)
    return Shapes(Shapes.Options(**options), context)


def samples(dataset: Shapes, count: int) -> list[Sample]:
    return [dataset.sample(index, UNUSED) for index in range(count)]


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(sample.images[0]).astype(int)


def objects_told(text: str) -> list[tuple[str, str, str]]:
    """The objects of a sentence, from left to right or top to bottom."""
    words = text.split()
    starts = [i for i, word in enumerate(words) if word == "a"]
    objects = [tuple(words[i + 1 : i + 4]) for i in starts]
    if "right" in words or "below" in words:
        objects.reverse()
    return objects


def painted(sample: Sample, colour: str) -> np.ndarray:
    """Where the picture is of a colour, (height, width), bool."""
    return (np.abs(pixels(sample) - RGB[colour]) < 30).all(axis=-1)


def test_samples_are_a_function_of_seed_index_and_split() -> None:
    first, again = make(), make()
    for index in range(20):
        one, other = first.sample(index, UNUSED), again.sample(index, np.random.default_rng(index))
        assert (one.text, one.image_ids) == (other.text, other.image_ids)
        assert np.array_equal(pixels(one), pixels(other))
    texts = [
        [sample.text for sample in samples(dataset, 50)]
        for dataset in (first, make(seed=1), make(training=False))
    ]
    for one, other in combinations(texts, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_all_words_are_in_the_vocabulary() -> None:
    vocabulary = shapes_vocabulary()
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary)) == len(vocabulary)
    used = {
        word for sample in samples(make(max_shapes=3), 500) for word in (sample.text or "").split()
    }
    assert used == set(vocabulary[5:])
    assert {*COLOURS, *SHAPES, *SIZES} <= used
    assert list(make().vocabulary) == vocabulary


@pytest.mark.parametrize("max_shapes", [1, 2, 3])
def test_sentences_tell_the_scene(max_shapes: int) -> None:
    numbers = set()
    for sample in samples(make(max_shapes=max_shapes), 200):
        assert sample.text is not None
        (scene,) = sample.image_ids
        assert tuple(objects_told(sample.text)) == scene.objects
        axis = {"x": ("left", "right"), "y": ("above", "below"), "": ("alone",)}[scene.axis]
        assert any(word in sample.text.split() for word in axis)
        numbers.add(len(scene.objects))
    assert numbers == set(range(1, max_shapes + 1))


def test_a_sentence_fits_one_scene_and_a_scene_has_one_picture() -> None:
    scenes: dict[str, object] = {}
    pictures: dict[object, np.ndarray] = {}
    repeated = 0
    for sample in samples(make(), 600):
        (scene,) = sample.image_ids
        assert scenes.setdefault(sample.text or "", scene) == scene
        repeated += scene in pictures
        assert np.array_equal(pictures.setdefault(scene, pixels(sample)), pixels(sample))
    assert repeated > 100


def test_pictures_show_what_the_sentence_says() -> None:
    for sample in samples(make(max_shapes=3), 300):
        objects = objects_told(sample.text or "")
        along_x = sample.image_ids[0].axis == "x"
        middles = []
        for colour in {colour for _, colour, _ in objects}:
            assert painted(sample, colour).sum() > 15
        for _, colour, _ in objects:
            if [c for _, c, _ in objects].count(colour) == 1:
                # Rows first, columns second.
                middles.append(np.argwhere(painted(sample, colour))[:, int(along_x)].mean())
        assert middles == sorted(middles)
        for colour in set(COLOURS) - {colour for _, colour, _ in objects}:
            assert painted(sample, colour).sum() < 5


def test_big_shapes_are_bigger_and_shapes_differ_in_area() -> None:
    areas: dict[tuple[str, str], set[int]] = {}
    for sample in samples(make(max_shapes=1), 600):
        ((size, colour, shape),) = objects_told(sample.text or "")
        areas.setdefault((shape, size), set()).add(int(painted(sample, colour).sum()))
    for shape in SHAPES:
        assert min(areas[shape, "big"]) > 2 * max(areas[shape, "small"])
    mean = {shape: np.mean(list(areas[shape, "big"])) for shape in SHAPES}
    # Of a square of side 2: 4, pi, 2, 20/9 and, for a ring, less than the circle.
    assert mean["square"] > mean["circle"] > mean["ring"]
    assert mean["square"] > 1.7 * mean["triangle"]


def test_the_background_is_light_and_noisy() -> None:
    sample = make().sample(0, UNUSED)
    corner_free = pixels(sample)[np.abs(pixels(sample) - BACKGROUND).max(axis=-1) < 30]
    assert abs(corner_free.mean() - BACKGROUND) < 3
    assert 3 < corner_free.std() < 9


def test_options_and_bounds() -> None:
    dataset = make(num_samples=7, image_size=96)
    assert len(dataset) == 7
    assert dataset.sample(6, UNUSED).images[0].size == (96, 96)
    assert dataset.provides == {"text", "image"}
    for index in (-1, 7):
        with pytest.raises(IndexError, match=f"got {index}, expected 0 <= sample < 7"):
            dataset.sample(index, UNUSED)
    with pytest.raises(ValueError, match="got 0, expected a number above 0"):
        make(num_samples=0)


def test_blank_pictures_differ_in_nothing_but_what_is_seen() -> None:
    for one, blank in zip(samples(make(), 20), samples(make(blank=True), 20), strict=True):
        assert (one.text, one.image_ids) == (blank.text, blank.image_ids)
        assert one.images[0].size == blank.images[0].size
        assert (pixels(blank) == 127).all()
