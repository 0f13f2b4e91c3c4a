"""Made-up samples, and micro-batches of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from renaissance.builtin.transforms.imagenet import ImageNet
from renaissance.contracts.dataset import Dataset
from renaissance.contracts.objective import Objective
from renaissance.contracts.samples import Sample
from renaissance.contracts.transform import TransformContext
from renaissance.data.collate import Collator
from renaissance.data.concatenation import Concatenation
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.open_image import ImageLimits
from renaissance.data.sample_reader import SampleReader
from renaissance.data.tokenizer import DATASET, load_tokenizer
from renaissance.testing.contract_check import ViolationError

IMAGE_SIZE = 32
MAX_TEXT_LENGTH = 24
NUM_SAMPLES = 8
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "big", "small", "red", "blue", "circle", "square", "left", "of", "the")


class SampleList(Dataset):
    """Samples from a list."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.provides = frozenset[str].intersection(*map(_provided, samples))
        texts = [text for s in samples for text in (s.text, s.text_pair) if text is not None]
        words = sorted({word for text in texts for word in text.lower().split()} | set(WORDS))
        self.vocabulary = (*SPECIAL_TOKENS, *words)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one of the list."""
        return self.samples[index]

    def label_values(self, name: str) -> list[object]:
        """Return a label of every sample."""
        return [sample.labels[name] for sample in self.samples]


def _provided(sample: Sample) -> frozenset[str]:
    parts = {"text": sample.text, "text_pair": sample.text_pair, "image": sample.images}
    return frozenset({*(name for name, part in parts.items() if part), *sample.labels})


def made_up_samples(requires: frozenset[str]) -> list[Sample]:
    """Return samples with texts of several lengths and images of noise.

    Args:
        requires: What they must hold, labels included.

    Raises:
        ViolationError: If something is required that cannot be made up.
    """
    labels = sorted(requires - {"text", "text_pair", "image"})
    if labels:
        raise ViolationError(
            f"it requires {', '.join(labels)}, which the kit cannot make up; pass "
            f"samples=[Sample(..., labels={{{labels[0]!r}: ...}}), ...], at least 4 of them"
        )
    generator = np.random.default_rng(7)

    def text() -> str:
        return " ".join(generator.choice(WORDS, size=generator.integers(2, 12)))

    def image() -> Image.Image:
        noise = generator.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        return Image.fromarray(noise)

    return [
        Sample(
            text=text() if "text" in requires else None,
            text_pair=text() if "text_pair" in requires else None,
            images=(image(),) if "image" in requires else (),
            image_ids=(index,) if "image" in requires else (),
            source=f"made up: {index}",
        )
        for index in range(NUM_SAMPLES)
    ]


def tokenizer_of(dataset: SampleList) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the dataset's words."""
    return load_tokenizer(DATASET, MAX_TEXT_LENGTH, [dataset])


def collate(
    dataset: SampleList,
    tokenizer: PreTrainedTokenizerFast,
    objectives: Mapping[str, Objective],
    indices: Sequence[int],
    training: bool,
) -> MicroBatch:
    """Collate some samples as the engine would."""
    reader = SampleReader(
        datasets=Concatenation([("samples", dataset)]),
        tokenizer=tokenizer,
        max_text_length=MAX_TEXT_LENGTH,
        transform=ImageNet(
            ImageNet.Options(), TransformContext(IMAGE_SIZE, training, ImageNet.mean)
        ),
        limits=ImageLimits(),
        max_text_characters=100_000,
        seed=0,
        training=training,
    )
    collator = Collator(reader, objectives, skip_bad_samples=False)
    return collator[[(0, index) for index in indices]]
