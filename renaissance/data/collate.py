"""From samples to a micro-batch in which each distinct text and image has one row."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor

from renaissance.contracts.batches import ObjectiveBatch
from renaissance.contracts.objective import Objective
from renaissance.contracts.samples import KeyedSample
from renaissance.data.cache.batch_images import BatchImages
from renaissance.data.encoding import Ids, input_ids, word_ids
from renaissance.data.micro_batch import MicroBatch, without_padding
from renaissance.data.sample_reader import BadSampleError, SampleReader
from renaissance.data.shared_pairs import share_pairs
from renaissance.errors import DataError

# Texts are padded to a multiple of this length, which suits tensor cores and vector units.
PAD_MULTIPLE = 8
# Draws of another sample before the dataset is taken to have only one image.
MAX_DRAWS = 100


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
