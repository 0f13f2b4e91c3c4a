"""A whole split, for metrics that need more than one micro-batch at a time."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.features import Fused
from renaissance.contracts.tokens import Modality, Tokens


@attrs.frozen
class EncodedRows:
    """Encoded texts or images, on the run's device.

    Attributes:
        tokens: Input of `SplitEvaluator.fuse`, (rows, tokens, hidden).
        features: The same rows as objectives read them unfused; None if no objective of the run
            reads them.
    """

    tokens: Tokens
    features: Tokens | None


class SplitEvaluator(Protocol):
    """A whole split, handed to `Objective.evaluate_split`.

    Attributes:
        rank: Index of this process.
        world_size: Number of ranks.
        device: The device of this rank's tensors.
        is_final: True in `renaissance evaluate`, False during training.
        micro_batch_size: `evaluate.micro_batch_size`.
    """

    rank: int
    world_size: int
    device: torch.device
    is_final: bool
    micro_batch_size: int

    def __len__(self) -> int:
        """Return the number of samples of the split that belong to this objective."""
        ...

    def image_ids(self) -> list[Hashable]:
        """Return the identifier of each sample's first image, without decoding images."""
        ...

    def labels(self, name: str) -> Iterator[tuple[str, object]]:
        """Yield where each sample comes from, and its label of a name; None if it has none."""
        ...

    def encode_texts(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the plain texts of samples, one row per index, on this rank alone."""
        ...

    def encode_images(self, indices: Sequence[int]) -> EncodedRows:
        """Encode the first images of samples, one row per index, on this rank alone."""
        ...

    def encode_given_texts(self, texts: Sequence[str]) -> EncodedRows:
        """Encode texts that are not in the split, such as names of classes, on this rank alone."""
        ...

    def embed(self, rows: EncodedRows, modality: Modality) -> Tensor | None:
        """Return the unit vectors of rows by the first objective that learns them, if any does.

        They are (rows, size), float32, on the CPU.
        """
        ...

    def fuse(self, text: Tokens, image: Tokens, pairs: Pairs) -> Fused:
        """Fuse pairs of encoded rows, on this rank alone."""
        ...

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return the similarity that an objective of the run learns, (texts, images), if any.

        Args:
            text: `EncodedRows.features` of texts.
            image: `EncodedRows.features` of images.
        """
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all ranks, on the CPU; every rank must call it.

        Args:
            rows: (rows, ...). The number of rows may differ between ranks; dtype and other sizes
                must not.
        """
        ...

    def progress(self, steps: Iterable[int], total: int, unit: str) -> Iterator[int]:
        """Yield the steps, and show the rate and the time left.

        Args:
            steps: Number of units that each step completes.
            total: Number of units of all steps.
            unit: Name of the unit, such as "pairs".
        """
        ...
