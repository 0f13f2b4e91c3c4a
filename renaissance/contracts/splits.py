"""A whole split, for objectives whose metrics need more than one micro-batch at a time."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Fused
from renaissance.contracts.tokens import Modality, Tokens


@attrs.frozen
class EncodedSamples:
    """Some samples' distinct texts and images, encoded once, on the device of the run.

    Attributes:
        text: Encoded texts, (texts, tokens, hidden), as `fuse` takes them.
        image: Encoded images.
        text_features: Texts encoded alone; None unless the similarity of the run needs them.
        image_features: Images encoded alone; likewise.
        text_rows: Row of each sample's text, (samples,), int64, CPU; None without texts.
        image_rows: Row of each sample's first image, likewise.
    """

    text: Tokens | None
    image: Tokens | None
    text_features: Tokens | None
    image_features: Tokens | None
    text_rows: Tensor | None
    image_rows: Tensor | None


class SplitEvaluator(Protocol):
    """A whole split, for an objective whose metric needs more than one micro-batch at a time.

    Attributes:
        rank: This process.
        world_size: Number of ranks.
        device: Where tensors are.
        is_final: True in `renaissance evaluate`, False during training.
        micro_batch_size: `evaluate.micro_batch_size`.
    """

    rank: int
    world_size: int
    device: torch.device
    is_final: bool
    micro_batch_size: int

    def __len__(self) -> int:
        """Return the number of the split's samples that belong to this objective."""
        ...

    def image_ids(self) -> list[Hashable]:
        """Return the identifier of every sample's first image, without decoding it."""
        ...

    def encode(self, indices: Sequence[int], modalities: frozenset[Modality]) -> EncodedSamples:
        """Encode samples' plain texts, first images, or both; this rank alone."""
        ...

    def fuse(self, text: Tokens, image: Tokens, pairs: Pairs) -> Fused:
        """Fuse pairs of encoded rows; this rank alone."""
        ...

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return the run's cheap similarity of features, (texts, images); None if it has none."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Return all ranks' rows one after the other, on the CPU; every rank must call it.

        Args:
            rows: (rows, ...), any number of rows, the same type and further sizes on every rank.
        """
        ...

    def progress(self, steps: Iterable[int], total: int, unit: str) -> Iterator[int]:
        """Pass steps on, showing rate and time left: each step says how many units it is."""
        ...
