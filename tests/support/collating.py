"""A dataset of given texts and images, tokenizers of two kinds, and collation of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import BertTokenizer, PreTrainedTokenizerFast

from renaissance import (
    Dataset,
    ModelSizes,
    Objective,
    ObjectiveContext,
    Sample,
    Transform,
    TransformContext,
)
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.builtin.transforms.imagenet import ImageNet
from renaissance.data.collate import Collator
from renaissance.data.concatenation import Concatenation
from renaissance.data.open_image import ImageLimits
from renaissance.data.sample_reader import SampleReader

WORDS = ["a", "photo", "of", "two", "elephants", "swimming", "nearby", "and", "umbrella", "one"]
PIECES = ["ele", "##phant", "##s", "swim", "##ming", "near", "##by", "um", "##bre", "##lla"]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN = 4


class Given(Dataset):
    """Texts, each with the number of its image, which is the image's grey level."""

    provides = frozenset({"text", "image"})

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, pairs: Sequence[tuple[str, int]], second_text: str | None = None) -> None:
        self.pairs = pairs
        self.second_text = second_text

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        text, image = self.pairs[index]
        picture = Image.new("RGB", (8, 8), (image, image, image))
        return Sample(text, self.second_text, (picture,), (image,), source=f"given: {index}")


def texts(number: int, num_words: int = 6, seed: int = 0) -> list[str]:
    """Return texts of random words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, num_words)) for _ in range(number)]


def word_pieces(whole_words: bool = False) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer that cuts long words into pieces, or not."""
    known = WORDS if whole_words else [w for w in WORDS if len(w) < 6] + PIECES
    return BertTokenizer(vocab={word: i for i, word in enumerate([*SPECIAL_TOKENS, *known])})


def byte_pairs() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer like RoBERTa's, trained on too little to know all words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(50), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def make(
    kind: type[MLM] | type[ITM],
    tokenizer: PreTrainedTokenizerFast,
    head: Any = None,
    **options: Any,
) -> Any:
    """Make an objective; `head` replaces its own."""
    context = ObjectiveContext(
        sizes=ModelSizes(HIDDEN, HIDDEN, HIDDEN, HIDDEN),
        tokenizer=tokenizer,
        make_head=lambda inputs, outputs: head or nn.Linear(inputs, outputs),
    )
    return kind(kind.Options(**options), context)


def collator(
    dataset: Dataset,
    objectives: Mapping[str, Objective],
    tokenizer: PreTrainedTokenizerFast,
    training: bool = True,
    max_text_length: int = 40,
    transform: Transform | None = None,
    skip_bad_samples: bool = False,
) -> Collator:
    """Make a collator of 8 x 8 images."""
    # As the run's tokenizer is set.
    tokenizer.backend_tokenizer.enable_truncation(max_text_length)
    reader = SampleReader(
        datasets=Concatenation([("given", dataset)]),
        tokenizer=tokenizer,
        max_text_length=max_text_length,
        transform=transform or imagenet(training=training),
        limits=ImageLimits(max_pixels=10_000),
        max_text_characters=1000,
        seed=0,
        training=training,
    )
    return Collator(reader, objectives, skip_bad_samples)


def imagenet(size: int = 8, training: bool = True, **options: Any) -> ImageNet:
    """Make an image transform."""
    context = TransformContext(size, training, ImageNet.mean)
    return ImageNet(ImageNet.Options(**options), context)


def epoch_of(number: int, epoch: int = 0) -> list[tuple[int, int]]:
    """Return the request of the first samples of an epoch."""
    return [(epoch, index) for index in range(number)]
