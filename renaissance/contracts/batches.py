"""What objectives ask of a micro-batch, and what they collate of it."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.samples import KeyedSample


@attrs.frozen
class Pairs:
    """Pairs to be fused, and what of the result will be read.

    Work whose output nobody reads is left out, so ask for what the loss needs and no more.

    Attributes:
        text_rows: Row of each pair's text in the micro-batch, (pairs,), int64.
        image_rows: Row of each pair's image, (pairs,), int64.
        image_types: 1 for a first image, 2 for a second one, (pairs,), int64; None means all 1.
        outputs: Any of "text" (fused text tokens), "image" (fused image tokens), "pooled".
    """

    text_rows: Tensor
    image_rows: Tensor
    image_types: Tensor | None = None
    outputs: frozenset[str] = frozenset({"pooled"})


@attrs.frozen
class ObjectiveBatch:
    """What one objective collates from the samples of a micro-batch.

    Attributes:
        num_targets: How many terms the loss sums up (masked tokens, pairs, questions).
        pairs: The pairs it wants fused; None for a text-only or image-only objective.
        tensors: Its labels and indices. Index tensors instead of boolean selection keep shapes
            independent of the data, which `check` and `torch.compile` need.
        identifiers: What `predictions` needs to name its targets by, such as question ids.
    """

    num_targets: int
    pairs: Pairs | None = None
    tensors: Mapping[str, Tensor] = attrs.field(factory=dict)
    identifiers: tuple[Any, ...] = ()


class BatchBuilder(Protocol):
    """Assembles the texts and images of one micro-batch; handed to `Objective.collate`.

    Every distinct text view and every distinct image gets one row, whoever asks for it.
    """

    tokenizer: PreTrainedTokenizerFast
    max_text_length: int
    training: bool

    def text(self, sample: KeyedSample) -> int:
        """Return the row of the sample's plain text (and its pair, if it has one)."""
        ...

    def input_ids(self, sample: KeyedSample) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the plain text's token ids, special tokens included, truncated: (tokens,)."""
        ...

    def word_ids(self, sample: KeyedSample) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the word that each token belongs to, -1 for special tokens: (tokens,)."""
        ...

    def text_view(self, sample: KeyedSample, view: str, input_ids: np.ndarray[Any, Any]) -> int:
        """Return the row of another version of the sample's text, such as "masked"."""
        ...

    def image(self, sample: KeyedSample, which: int = 0) -> int:
        """Return the row of one of the sample's images."""
        ...

    def other_sample(self, sample: KeyedSample, purpose: str) -> KeyedSample:
        """Return a random sample of the dataset with another image, keyed by `purpose`.

        Raises:
            DataError: If the dataset has no other image.
        """
        ...
