"""A whole split, as an objective sees it whose metric needs more than a micro-batch."""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Fused
from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.splits import EncodedSamples
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.data.collate import Collator, RowBuilder
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.spec.sections import RunSpec

SECONDS_BETWEEN_LINES = 10.0


class WholeSplit:
    """The `SplitEvaluator` of one objective; see its protocol for what each member does.

    Args:
        network: Model and objectives, in evaluation mode.
        collator: Of the split.
        objective: The objective's name.
        spec: The run spec.
        ranks: The processes of the run.
        is_final: True in `renaissance evaluate`.
    """

    def __init__(
        self,
        network: MultiObjective,
        collator: Collator,
        objective: str,
        spec: RunSpec,
        ranks: Ranks,
        is_final: bool,
    ) -> None:
        self.rank = ranks.rank
        self.world_size = ranks.world_size
        self.device = ranks.device
        self.is_final = is_final
        self.micro_batch_size = spec.evaluate.micro_batch_size
        self._task = network
        self._collator = collator
        self._objective = objective
        self._precision = spec.train.precision
        self._ranks = ranks

    @cached_property
    def _indices(self) -> list[int]:
        # Most objectives never ask, and a split may be long.
        datasets = self._collator.datasets
        return [i for i in range(len(datasets)) if datasets.goes_to(i, self._objective)]

    def __len__(self) -> int:
        """See the protocol."""
        return len(self._indices)

    def image_ids(self) -> list[Hashable]:
        """See the protocol."""
        builder = self._builder()
        return [builder.sample(0, index).sample.image_ids[0] for index in self._indices]

    def encode(self, indices: Sequence[int], modalities: frozenset[Modality]) -> EncodedSamples:
        """See the protocol."""
        builder = self._builder()
        samples = [builder.sample(0, self._indices[index]) for index in indices]
        text_rows = self._rows(builder.text, samples) if "text" in modalities else None
        image_rows = self._rows(builder.image, samples) if "image" in modalities else None
        batch = builder.micro_batch(samples, {}, ()).to(self.device)
        model = self._task.model
        text = image = None
        with torch.no_grad(), autocast(self._precision, self.device):
            if batch.input_ids is not None and batch.attention_mask is not None:
                text = model.encode_text(batch.input_ids, batch.attention_mask)
            if batch.pixel_values is not None:
                image = model.encode_image(self._task.normalize(batch.pixel_values))
            alone = self._task.features_alone(self._task.named_objectives(), text, image)
        return EncodedSamples(text, image, alone["text"], alone["image"], text_rows, image_rows)

    def fuse(self, text: Tokens, image: Tokens, pairs: Pairs) -> Fused:
        """See the protocol."""
        with torch.no_grad(), autocast(self._precision, self.device):
            return self._task.model.fuse(text, image, [pairs])[0]

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """See the protocol."""
        with autocast(self._precision, self.device):
            return self._task.similarity(text, image)

    def gather(self, rows: Tensor) -> Tensor:
        """See the protocol."""
        return self._ranks.gather_rows(rows)

    def progress(self, steps: Iterable[int], total: int, unit: str) -> Iterator[int]:
        """See the protocol. Rank 0 prints a line now and then, of its own share."""
        started = said = time.monotonic()
        done = 0
        for step in steps:
            yield step
            done += step
            now = time.monotonic()
            is_due = now - said >= SECONDS_BETWEEN_LINES or done >= total
            if self._ranks.is_main and is_due:
                said = now
                rate = done / max(now - started, 1e-9)
                left = (total - done) / rate
                print(
                    f"{self._objective}: {done:,} of {total:,} {unit} on rank 0, "
                    f"{rate:,.0f} {unit}/s, {left:,.0f} s left",
                    flush=True,
                )

    def _builder(self) -> RowBuilder:
        return RowBuilder(self._collator, frozenset())

    @staticmethod
    def _rows(row_of: Callable[[KeyedSample], int], samples: Sequence[KeyedSample]) -> Tensor:
        return torch.tensor([row_of(sample) for sample in samples], dtype=torch.int64)
