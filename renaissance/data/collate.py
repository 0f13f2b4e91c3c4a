"""From samples to a micro-batch in which every distinct text and image has one row."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.objective import Objective
from renaissance.contracts.samples import KeyedSample
from renaissance.data.concatenation import Concatenation
from renaissance.data.images import ImageTransform
from renaissance.errors import DataError

# Text is padded to a multiple of this, which tensor cores and vector units like.
PAD_MULTIPLE = 8
MAX_DRAWS = 100

Ids = np.ndarray[Any, np.dtype[np.int64]]
T = TypeVar("T")


@attrs.frozen
class MicroBatch:
    """What one rank sends through the model at once.

    Attributes:
        indices: Index of each sample in the concatenated datasets, (samples,), int64.
        input_ids: Distinct text views, (texts, tokens), int64; None where there is no text.
        attention_mask: True where real, (texts, tokens), bool.
        pixel_values: Distinct images, (images, 3, size, size), uint8: normalized on the device.
        objectives: What each objective collated, by name; one that gets no sample is absent.
        bad_samples: Messages about records that could not be read and were left out.
    """

    indices: Tensor
    input_ids: Tensor | None
    attention_mask: Tensor | None
    pixel_values: Tensor | None
    objectives: Mapping[str, ObjectiveBatch]
    bad_samples: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "MicroBatch":
        """Copy to a device, without waiting where memory is pinned."""
        return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), self)

    def pin_memory(self) -> "MicroBatch":
        """Copy to pinned memory; called by the loader."""
        return map_tensors(lambda tensor: tensor.pin_memory(), self)


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Apply a function to every tensor in nested attrs objects and mappings."""
    if isinstance(value, Tensor):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {k: map_tensors(function, v) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, MicroBatch | ObjectiveBatch | Pairs):
        fields = attrs.fields_dict(type(value))
        return attrs.evolve(
            value, **{name: map_tensors(function, getattr(value, name)) for name in fields}
        )
    return value


class BadSampleError(DataError):
    """A record that could not be read, with its index."""

    def __init__(self, index: int, cause: DataError) -> None:
        self.index = index
        super().__init__(str(cause))


class Collator:
    """Makes the micro-batch of a list of (epoch, index): a function of those, whoever calls it.

    Args:
        datasets: The split's datasets, concatenated.
        objectives: The objectives, by name.
        tokenizer: The run's tokenizer.
        transform: Image transform.
        max_text_length: Longest text, tokens.
        seed: The run's seed.
        training: False in evaluation.
        skip_bad_samples: Leave out records that cannot be read, and report them in the
            micro-batch, instead of raising.
    """

    def __init__(
        self,
        datasets: Concatenation,
        objectives: Mapping[str, Objective],
        tokenizer: PreTrainedTokenizerFast,
        transform: ImageTransform,
        max_text_length: int,
        seed: int,
        training: bool,
        skip_bad_samples: bool,
    ) -> None:
        self.datasets = datasets
        self.objectives = objectives
        self.tokenizer = tokenizer
        self.transform = transform
        self.max_text_length = max_text_length
        self.seed = seed
        self.training = training
        self.skip_bad_samples = skip_bad_samples

    def __getitem__(self, request: Sequence[tuple[int, int]]) -> MicroBatch:
        """Collate the samples at (epoch, index) each.

        Raises:
            DataError: If a record cannot be read, or, with `skip_bad_samples`, if none can.
        """
        bad: dict[int, str] = {}
        while True:
            builder = RowBuilder(self, frozenset(bad))
            try:
                samples = [builder.sample(e, i) for e, i in request if i not in bad]
                if not samples:
                    raise DataError(
                        f"no sample of a micro-batch of {len(request)} can be read: "
                        + "; ".join(bad.values())
                    )
                objectives = self._collate(samples, builder, bad)
                return builder.micro_batch(samples, objectives, tuple(bad.values()))
            except BadSampleError as error:
                if not self.skip_bad_samples:
                    raise
                bad[error.index] = str(error)

    def _collate(
        self, samples: Sequence[KeyedSample], builder: "RowBuilder", bad: Mapping[int, str]
    ) -> dict[str, ObjectiveBatch]:
        """Let each objective collate the samples that go to it; one without any is left out."""
        objectives = {}
        for name, objective in self.objectives.items():
            own = [sample for sample in samples if self.datasets.goes_to(sample.index, name)]
            if own:
                objectives[name] = objective.collate(own, builder)
            elif self.training:
                # All ranks must have the same objectives in a step: they exchange gradients.
                raise DataError(
                    f"no sample for objective '{name}' in a micro-batch of "
                    f"{len(samples) + len(bad)}: {'; '.join(bad.values())}; mend the data or "
                    "raise train.micro_batch_size"
                )
        return objectives


class RowBuilder:
    """Collects the rows of one micro-batch; the `BatchBuilder` that objectives see."""

    def __init__(self, collator: Collator, bad: frozenset[int]) -> None:
        self.tokenizer = collator.tokenizer
        self.max_text_length = collator.max_text_length
        self.training = collator.training
        self._collator = collator
        self._bad = bad
        self._encodings: dict[tuple[int, int], Any] = {}
        self._text_rows: dict[tuple[Any, ...], int] = {}
        self._texts: list[Ids] = []
        self._image_rows: dict[tuple[Any, ...], int] = {}
        self._images: list[np.ndarray[Any, np.dtype[np.uint8]]] = []

    def sample(self, epoch: int, index: int) -> KeyedSample:
        """Read a sample."""
        seed = self._collator.seed
        try:
            sample = self._collator.datasets.sample(seed, epoch, index)
        except DataError as error:
            raise BadSampleError(index, error) from error
        return KeyedSample(sample, seed, epoch, index)

    def text(self, sample: KeyedSample) -> int:
        """See `BatchBuilder`."""
        return self.text_view(sample, "plain", self.input_ids(sample))

    def input_ids(self, sample: KeyedSample) -> Ids:
        """See `BatchBuilder`."""
        return np.array(self._encoding(sample).ids, dtype=np.int64)

    def word_ids(self, sample: KeyedSample) -> Ids:
        """See `BatchBuilder`."""
        encoding = self._encoding(sample)
        # Words are numbered from 0 in each of two texts: keep those of the second one apart.
        return np.array(
            [
                -1 if word is None else word + self.max_text_length * (sequence or 0)
                for word, sequence in zip(encoding.word_ids, encoding.sequence_ids, strict=True)
            ],
            dtype=np.int64,
        )

    def text_view(self, sample: KeyedSample, view: str, input_ids: Ids) -> int:
        """See `BatchBuilder`."""
        key = (view, sample.epoch, sample.index)
        if key not in self._text_rows:
            self._text_rows[key] = len(self._texts)
            self._texts.append(input_ids)
        return self._text_rows[key]

    def image(self, sample: KeyedSample, which: int = 0) -> int:
        """See `BatchBuilder`."""
        transform = self._collator.transform
        image_id = sample.sample.image_ids[which]
        # Under augmentation the same image looks different in each sample.
        key: tuple[Any, ...] = (self._collator.datasets.source_of(sample.index), image_id)
        if not transform.deterministic:
            key = (*key, sample.epoch, sample.index)
        if key not in self._image_rows:
            try:
                pixels = transform(
                    sample.sample.images[which],
                    None if transform.deterministic else sample.generator(f"transform/{which}"),
                    sample.sample.source,
                )
            except DataError as error:
                raise BadSampleError(sample.index, error) from error
            self._image_rows[key] = len(self._images)
            self._images.append(pixels)
        return self._image_rows[key]

    def other_sample(self, sample: KeyedSample, purpose: str) -> KeyedSample:
        """See `BatchBuilder`."""
        generator = sample.generator(purpose)
        for _ in range(MAX_DRAWS):
            index = self._collator.datasets.random_index(sample.index, generator)
            if index in self._bad:
                continue
            other = self.sample(sample.epoch, index)
            if set(other.sample.image_ids).isdisjoint(sample.sample.image_ids):
                return other
        raise DataError(
            f"{sample.sample.source}: {MAX_DRAWS} random draws found no sample with another image; "
            "matching needs a dataset of at least two different images"
        )

    def micro_batch(
        self,
        samples: Sequence[KeyedSample],
        objectives: Mapping[str, ObjectiveBatch],
        bad_samples: tuple[str, ...],
    ) -> MicroBatch:
        """Put the rows together."""
        input_ids, attention_mask = self._padded_texts()
        return MicroBatch(
            indices=torch.tensor([sample.index for sample in samples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=torch.from_numpy(np.stack(self._images)) if self._images else None,
            objectives=objectives,
            bad_samples=bad_samples,
        )

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

    def _encoding(self, sample: KeyedSample) -> Any:
        key = (sample.epoch, sample.index)
        if key not in self._encodings:
            text, pair = sample.sample.text, sample.sample.text_pair
            if text is None:
                raise BadSampleError(
                    sample.index, DataError(f"{sample.sample.source}: the sample has no text")
                )
            self._encodings[key] = self.tokenizer.backend_tokenizer.encode(text, pair)
        return self._encodings[key]
