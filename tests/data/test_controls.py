"""Controls take away what one modality says, and nothing else."""

import numpy as np
import pytest
from PIL import Image

from renaissance import DataError, Dataset, Sample
from renaissance.data.concatenation import Concatenation
from renaissance.data.controls import CONTROLS, Control, controlled


class Numbered(Dataset):
    """Two samples per image; an image's grey level is its number."""

    provides = frozenset({"text", "image", "label"})

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return 2 * self.num_images

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        number = index // 2
        return Sample(
            text=f"text {index}",
            images=(Image.new("RGB", (8 + number, 8), (number, number, number)),),
            image_ids=(number,),
            labels={"label": index},
            source=f"row {index}",
        )


def _samples(control: Control, num_images: int = 6) -> list[Sample]:
    datasets = controlled(Concatenation([("numbered", Numbered(num_images))]), control)
    return [datasets.sample(0, 0, index) for index in range(len(datasets))]


def _level(sample: Sample) -> int:
    return sample.images[0].getpixel((0, 0))[0]


@pytest.mark.parametrize("control", CONTROLS)
def test_labels_and_identifiers_stay(control: Control) -> None:
    for index, sample in enumerate(_samples(control)):
        assert sample.labels == {"label": index}
        assert sample.image_ids == (index // 2,)


def test_blanked_images_are_grey_and_keep_their_size() -> None:
    samples = _samples("blank image")
    assert {_level(sample) for sample in samples} == {127}
    assert [sample.images[0].size for sample in samples[::2]] == [(8 + i, 8) for i in range(6)]
    assert samples[3].text == "text 3"


def test_shuffled_images_are_another_one_and_the_same_in_all_samples_of_an_image() -> None:
    levels = [_level(sample) for sample in _samples("other image")]
    assert all(level != index // 2 for index, level in enumerate(levels))
    assert levels[::2] == levels[1::2]
    assert levels == [_level(sample) for sample in _samples("other image")]


def test_blanked_texts_are_empty() -> None:
    samples = _samples("blank text")
    assert {sample.text for sample in samples} == {""}
    assert {sample.text_pair for sample in samples} == {None}
    assert [_level(sample) for sample in samples[::2]] == list(range(6))


def test_a_single_image_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match=r"row 0: 100 random draws found no other image"):
        _samples("other image", num_images=1)
