"""Samples one by one: their texts as token ids, their images as pixels."""

from collections.abc import Hashable

import attrs
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.transform import Transform
from renaissance.data.cache.rows import RowCache
from renaissance.data.concatenation import Concatenation
from renaissance.data.encoding import encode
from renaissance.data.images import square_pixels
from renaissance.data.open_image import ImageLimits
from renaissance.errors import DataError, SpecError


class BadSampleError(DataError):
    """A record that could not be read, with its index."""

    def __init__(self, index: int, cause: DataError) -> None:
        self.index = index
        super().__init__(str(cause))


@attrs.frozen
class SampleReader:
    """Reads samples, and turns their texts into token ids and their images into pixels.

    All results are functions of (seed, epoch, index).

    Attributes:
        datasets: The split's datasets, concatenated.
        tokenizer: The run's tokenizer.
        max_text_length: Length of the longest text, tokens.
        transform: Image transform.
        limits: Larger images are refused before they are decoded.
        max_text_characters: Longer texts are refused before they are split into tokens.
        seed: The run's seed.
        training: False in evaluation.
        pixel_cache: Where the pixels of images are kept, if they are.
        state_cache: Where the token states of images are kept, if they are.
    """

    datasets: Concatenation
    tokenizer: PreTrainedTokenizerFast
    max_text_length: int
    transform: Transform
    limits: ImageLimits
    max_text_characters: int
    seed: int
    training: bool
    pixel_cache: RowCache | None = None
    state_cache: RowCache | None = None

    def sample(self, epoch: int, index: int) -> KeyedSample:
        """Read a sample.

        Raises:
            BadSampleError: If its record cannot be read.
        """
        try:
            sample = self.datasets.sample(self.seed, epoch, index)
        except DataError as error:
            raise BadSampleError(index, error) from error
        return KeyedSample(sample, self.seed, epoch, index)

    def encoding(self, sample: KeyedSample) -> Encoding:
        """Tokenize a sample's text, with its second text if it has one.

        Raises:
            BadSampleError: If it has no text, or one that is too long.
            SpecError: If the special tokens alone exceed the longest text.
        """
        text, pair = sample.sample.text, sample.sample.text_pair
        if text is None:
            cause = DataError(f"{sample.source}: the sample has no text")
            raise BadSampleError(sample.index, cause)
        # Splitting takes time and memory for all of a text, of which the run uses the start.
        longest = max(len(text), len(pair or ""))
        if longest > self.max_text_characters:
            cause = DataError(
                f"{sample.source}: a text of {longest:,} characters; expected at most "
                f"{self.max_text_characters:,} (data.max_text_characters). Shorten it and prepare "
                "the data again, or raise the limit"
            )
            raise BadSampleError(sample.index, cause)
        # The tokenizer does not truncate a text to less than these.
        num_special = self.tokenizer.num_special_tokens_to_add(pair=pair is not None)
        if self.max_text_length <= num_special:
            raise SpecError(
                f"data.max_text_length: got {self.max_text_length}, but {num_special} of the "
                f"tokens are special ones that the tokenizer adds; use at least {num_special + 1}"
            )
        return encode(self.tokenizer, text, pair)

    def image_key(self, sample: KeyedSample, which: int) -> Hashable:
        """Return a key for one of a sample's images; equal keys mean equal pixels."""
        key = (self.datasets.dataset_of(sample.index), sample.image_ids[which])
        if self.transform.is_deterministic:
            return key
        # Under augmentation the same image looks different in each sample.
        return (*key, sample.epoch, sample.index)

    def is_within_limits(self, sample: KeyedSample, which: int) -> bool:
        """Return whether one of a sample's images is small enough to be decoded."""
        return self.limits.fault(sample.images[which]) is None

    def pixels(self, sample: KeyedSample, which: int) -> NDArray[np.uint8]:
        """Return one of a sample's images, (3, image_size, image_size).

        Raises:
            BadSampleError: If it cannot be decoded, or is too large.
        """
        try:
            return square_pixels(
                sample.images[which],
                self.transform,
                sample.generator(f"transform/{which}"),
                self.limits,
                sample.source,
            )
        except DataError as error:
            raise BadSampleError(sample.index, error) from error
