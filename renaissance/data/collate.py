"""From samples to a micro-batch in which each distinct text and image has one row."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.objective import Objective
from renaissance.contracts.packing import Packing
from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.transform import Transform
from renaissance.data.cache.batch_images import BatchImages, KnownStates
from renaissance.data.cache.rows import RowCache
from renaissance.data.concatenation import Concatenation
from renaissance.data.encoding import Ids, encode, input_ids, word_ids
from renaissance.data.images import square_pixels
from renaissance.data.open_image import ImageLimits
from renaissance.data.packing import find_real_tokens, pack_texts
from renaissance.data.shared_pairs import SharedPairs, share_pairs
from renaissance.errors import DataError, SpecError

# Texts are padded to a multiple of this length, which suits tensor cores and vector units.
PAD_MULTIPLE = 8
# Draws of another sample before the dataset is taken to have only one image.
MAX_DRAWS = 100

T = TypeVar("T")
Leaf = TypeVar("Leaf")


@attrs.frozen
class MicroBatch:
    """What one rank sends through the model at once.

    Attributes:
        indices: Index of each sample in the concatenated datasets, (samples,), int64.
        input_ids: Distinct text views, (texts, tokens), int64; None if there are no texts.
        attention_mask: True where real, (texts, tokens), bool; None if there are no texts.
        pixel_values: Distinct images, (images, 3, size, size), uint8, normalized later, on the
            device; None if there are no images. Those in `known_states` are left out.
        objectives: What each objective collated, by name, without those that got no samples.
        bad_samples: Messages about unreadable records, which are left out, by index.
        shared_pairs: What to fuse, if several objectives read the same pairs.
        packing: How to encode the texts without their padding, in training, if there is much; the
            pairs then say which text tokens are real.
        known_states: The images whose token states a cache holds; None without such a cache.
    """

    indices: Tensor
    input_ids: Tensor | None
    attention_mask: Tensor | None
    pixel_values: Tensor | None
    objectives: Mapping[str, ObjectiveBatch]
    bad_samples: Mapping[int, str] = attrs.field(factory=dict)
    shared_pairs: SharedPairs | None = None
    packing: Packing | None = None
    known_states: KnownStates | None = None

    @property
    def has_images(self) -> bool:
        """Whether there are any images."""
        return self.pixel_values is not None or self.known_states is not None

    def num_targets(self, objective: str) -> int:
        """Return the number of targets of an objective, 0 if it got no samples."""
        batch = self.objectives.get(objective)
        return 0 if batch is None else batch.num_targets

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy to a device; asynchronous if memory is pinned."""
        return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), self)

    def pin_memory(self) -> "MicroBatch":
        """Copy to pinned memory; called by the loader."""
        return map_tensors(lambda tensor: tensor.pin_memory(), self)


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Apply a function to every tensor in nested attrs objects and mappings."""
    return map_leaves(Tensor, function, value)


def map_leaves(kind: type[Leaf], function: Callable[[Leaf], object], value: T) -> T:
    """Replace every value of a type in nested attrs objects and mappings."""
    if isinstance(value, kind):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {k: map_leaves(kind, function, v) for k, v in value.items()}  # type: ignore[return-value]
    # mypy does not learn from the type of a value what the value is.
    nested: Any = value
    if attrs.has(type(nested)):
        fields = attrs.fields_dict(type(nested))
        changes = {name: map_leaves(kind, function, getattr(value, name)) for name in fields}
        changed: T = attrs.evolve(nested, **changes)
        return changed
    return value


def without_padding(batch: MicroBatch, lengths: Sequence[int]) -> MicroBatch:
    """Return a micro-batch that says how to do without padding, if there is much.

    Args:
        batch: A micro-batch with texts.
        lengths: Length of each text in tokens.
    """
    width = 0 if batch.input_ids is None else batch.input_ids.shape[1]
    packing = pack_texts(lengths, width)
    if packing is None:
        return batch
    batch = map_leaves(Pairs, lambda pairs: find_real_tokens(pairs, lengths, width), batch)
    return attrs.evolve(batch, packing=packing)


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


class Collator:
    """Makes a micro-batch from a list of (epoch, index), the same in any process.

    Args:
        reader: Reads the samples.
        objectives: The objectives, by name.
        skip_bad_samples: Whether to leave out unreadable records and report them in the
            micro-batch, instead of raising.
    """

    def __init__(
        self, reader: SampleReader, objectives: Mapping[str, Objective], skip_bad_samples: bool
    ) -> None:
        self.reader = reader
        self.datasets = reader.datasets
        self.objectives = objectives
        self.skip_bad_samples = skip_bad_samples

    def __getitem__(self, request: Sequence[tuple[int, int]]) -> MicroBatch:
        """Collate samples.

        Args:
            request: (epoch, index) of each sample.

        Raises:
            DataError: If a record cannot be read; with `skip_bad_samples`, if none can.
        """
        bad: dict[int, str] = {}
        while True:
            # Start over after each bad record: others may already have been paired with it.
            builder = RowBuilder(self.reader, frozenset(bad))
            try:
                samples = [self.reader.sample(e, i) for e, i in request if i not in bad]
                if not samples:
                    raise DataError(
                        f"no sample of a micro-batch of {len(request)} can be read: "
                        + "; ".join(bad.values())
                    )
                objectives = self._collate(samples, builder, bad)
                return builder.micro_batch(samples, objectives, bad)
            except BadSampleError as error:
                if not self.skip_bad_samples:
                    raise
                bad[error.index] = str(error)

    def pixels_of(self, batch: MicroBatch, row: int) -> NDArray[np.uint8]:
        """Return the pixels of an image row of a micro-batch, (3, image_size, image_size)."""
        if batch.known_states is not None:
            index, which = batch.known_states.origins[row].tolist()
            return self.reader.pixels(self.reader.sample(0, index), which)
        if batch.pixel_values is None:
            raise ValueError("the micro-batch has no images")
        pixels: NDArray[np.uint8] = batch.pixel_values[row].cpu().numpy()
        return pixels

    def _collate(
        self, samples: Sequence[KeyedSample], builder: "RowBuilder", bad: Mapping[int, str]
    ) -> dict[str, ObjectiveBatch]:
        """Let each objective collate the samples routed to it; leave out those without any."""
        objectives = {}
        for name, objective in self.objectives.items():
            chosen = [sample for sample in samples if self.datasets.goes_to(sample.index, name)]
            if chosen:
                objectives[name] = objective.collate(chosen, builder)
            elif self.reader.training:
                # Every rank must run the same objectives in a step: they exchange gradients.
                raise DataError(
                    f"no sample for objective '{name}' in a micro-batch of "
                    f"{len(samples) + len(bad)}: {'; '.join(bad.values())}; fix the data or "
                    "raise train.micro_batch_size"
                )
        return objectives


class RowBuilder:
    """Collects the rows of one micro-batch; the `BatchBuilder` that objectives see.

    Args:
        reader: Reads the samples.
        bad: Indices of unreadable samples, which are never drawn.
    """

    def __init__(self, reader: SampleReader, bad: frozenset[int] = frozenset()) -> None:
        self.tokenizer = reader.tokenizer
        self.max_text_length = reader.max_text_length
        self.training = reader.training
        self._reader = reader
        self._bad = bad
        self._encodings: dict[tuple[int, int], Encoding] = {}
        self._text_rows: dict[tuple[str, int, int], int] = {}
        self._texts: list[Ids] = []
        self._image_rows: dict[Hashable, int] = {}
        self._images = BatchImages(reader)

    def text(self, sample: KeyedSample) -> int:
        """Return the row of the sample's plain text."""
        return self.text_view(sample, "plain", self.input_ids(sample))

    def input_ids(self, sample: KeyedSample) -> Ids:
        """Return the plain text's token ids, (tokens,), int64."""
        return input_ids(self._encoding(sample), self.tokenizer)

    def word_ids(self, sample: KeyedSample) -> Ids:
        """Return the index of each token's word, -1 for special tokens: (tokens,), int64."""
        return word_ids(self._encoding(sample), (sample.sample.text, sample.sample.text_pair))

    def text_view(self, sample: KeyedSample, view: str, input_ids: Ids) -> int:
        """Return the row of one view of the sample's text, adding it if it is new."""
        key = (view, sample.epoch, sample.index)
        if key not in self._text_rows:
            self._text_rows[key] = len(self._texts)
            self._texts.append(input_ids)
        return self._text_rows[key]

    def existing_view(self, sample: KeyedSample, view: str) -> int | None:
        """Return the row of a view of the sample's text, if an objective has added it."""
        return self._text_rows.get((view, sample.epoch, sample.index))

    def image(self, sample: KeyedSample, which: int = 0) -> int:
        """Return the row of one of the sample's images, adding it if it is new."""
        key = self._reader.image_key(sample, which)
        if key not in self._image_rows:
            self._image_rows[key] = self._images.add(sample, which)
        return self._image_rows[key]

    def other_sample(self, sample: KeyedSample, purpose: str) -> KeyedSample:
        """Return a random sample with a different image, keyed by `purpose`.

        Raises:
            DataError: If none is drawn in `MAX_DRAWS` tries.
        """
        generator = sample.generator(purpose)
        for _ in range(MAX_DRAWS):
            index = self._reader.datasets.random_index(sample.index, generator)
            if index in self._bad:
                continue
            other = self._reader.sample(sample.epoch, index)
            if set(other.sample.image_ids).isdisjoint(sample.image_ids):
                return other
        raise DataError(
            f"{sample.source}: {MAX_DRAWS} random draws found no sample with another image; "
            "matching needs a dataset of at least two different images"
        )

    def micro_batch(
        self,
        samples: Sequence[KeyedSample],
        objectives: Mapping[str, ObjectiveBatch],
        bad_samples: Mapping[int, str],
    ) -> MicroBatch:
        """Return the micro-batch of all rows so far."""
        input_ids, attention_mask = self._padded_texts()
        batch = MicroBatch(
            indices=torch.tensor([sample.index for sample in samples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=self._images.pixel_values(),
            objectives=objectives,
            bad_samples=bad_samples,
            shared_pairs=share_pairs(objectives),
            known_states=self._images.known_states(),
        )
        if input_ids is None or not self.training:
            return batch
        return without_padding(batch, [len(ids) for ids in self._texts])

    def _padded_texts(self) -> tuple[Tensor | None, Tensor | None]:
        if not self._texts:
            return None, None
        longest = max(len(ids) for ids in self._texts)
        length = min(-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE, self.max_text_length)
        input_ids = np.full((len(self._texts), length), self.tokenizer.pad_token_id, np.int64)
        attention_mask = np.zeros((len(self._texts), length), np.bool_)
        for row, ids in enumerate(self._texts):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = True
        return torch.from_numpy(input_ids), torch.from_numpy(attention_mask)

    def _encoding(self, sample: KeyedSample) -> Encoding:
        key = (sample.epoch, sample.index)
        if key not in self._encodings:
            self._encodings[key] = self._reader.encoding(sample)
        return self._encodings[key]
