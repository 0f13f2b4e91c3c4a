"""A whole split, for an objective whose metric needs more than a micro-batch."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Fused
from renaissance.contracts.splits import EncodedRows
from renaissance.contracts.tokens import Modality, Tokens
from renaissance.data.collate import Collator
from renaissance.engine.distributed import Ranks
from renaissance.engine.encode_rows import encode_rows
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.engine.progress import progress
from renaissance.spec.sections import RunSpec


class WholeSplit:
    """The `SplitEvaluator` of one objective; that protocol describes arguments and results.

    Args:
        network: Model and objectives, in evaluation mode.
        collator: Reads the samples of the split.
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
        self._network = network
        self._collator = collator
        self._objective = objective
        self._precision = spec.train.precision
        self._ranks = ranks

    @cached_property
    def _indices(self) -> list[int]:
        # Computed on first use: most objectives never need it, and a split may be long.
        datasets = self._collator.datasets
        return [i for i in range(len(datasets)) if datasets.goes_to(i, self._objective)]

    def __len__(self) -> int:
        return len(self._indices)

    def image_ids(self) -> list[Hashable]:
        """Return the identifier of each sample's first image."""
        reader = self._collator.reader
        return [reader.sample(0, index).image_ids[0] for index in self._indices]

    def encode_texts(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the texts of samples, one row per index."""
        return self._encode("text", indices)

    def encode_images(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the first images of samples, one row per index."""
        return self._encode("image", indices)

    def _encode(self, modality: Modality, indices: Sequence[int]) -> EncodedRows:
        return encode_rows(
            self._network,
            self._collator.reader,
            modality,
            [self._indices[index] for index in indices],
            self._precision,
            self.device,
        )

    def fuse(self, text: Tokens, image: Tokens, pairs: Pairs) -> Fused:
        """Fuse pairs of encoded rows."""
        with torch.no_grad(), autocast(self._precision, self.device):
            return self._network.model.fuse(text, image, [pairs])[0]

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return the similarity that an objective learns, or None."""
        with autocast(self._precision, self.device):
            return self._network.similarity(text, image)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, on the CPU."""
        return self._ranks.gather_rows(rows)

    def progress(self, steps: Iterable[int], total: int, unit: str) -> Iterator[int]:
        """Yield the steps; rank 0 shows its own progress."""
        with progress(
            self._objective, total, unit, self._ranks.is_main, has_terminal=self.is_final
        ) as advance:
            for step in steps:
                yield step
                advance(step)
