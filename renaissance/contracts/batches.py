"""What an objective asks of a micro-batch, and what it collates from the samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renaissance.contracts.samples import KeyedSample
from renaissance.errors import PluginError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@attrs.frozen
class Pairs:
    """Pairs to fuse, and which outputs of the fusion the objective reads.

    Other outputs are not computed, so request only what the loss needs.

    Attributes:
        text_rows: Row of each pair's text in the micro-batch, (pairs,), int64.
        image_rows: Row of each pair's image, (pairs,), int64.
        image_types: 1 for the first image of a sample, 2 for the second, (pairs,), int64; None
            means all 1.
        outputs: A subset of "text" (fused text tokens), "image" (fused image tokens), "pooled".
        text_index: Set by the engine, in training: which text tokens are real, see `FusedUse`.
    """

    text_rows: Tensor
    image_rows: Tensor
    image_types: Tensor | None = None
    outputs: frozenset[str] = frozenset({"pooled"})
    text_index: Tensor | None = None

    @classmethod
    def one_per_sample(cls, samples: Sequence[KeyedSample], builder: "BatchBuilder") -> "Pairs":
        """Pair each sample's text with its first image."""
        return cls(
            text_rows=torch.tensor([builder.text(sample) for sample in samples]),
            image_rows=torch.tensor([builder.image(sample) for sample in samples]),
        )

    def rows(self) -> list[tuple[int, int]]:
        """Return the text row and the image row of each pair; waits for the device."""
        return list(zip(self.text_rows.tolist(), self.image_rows.tolist(), strict=True))


@attrs.frozen
class WholeBatch:
    """What comparing samples with the whole global batch gave, for those of one micro-batch.

    Attributes:
        gradients: Gradient of the loss sum with respect to what `Objective.compared` returned, by
            its names, (samples, ...) each.
        figures: What `Objective.compare` returned, by name, (samples,) each, detached.
    """

    gradients: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]

    def loss_sum(self, compared: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the micro-batch's samples, whose gradient is that of the whole batch.

        Args:
            compared: What samples are compared by, with gradient.
        """
        linear = torch.stack([(compared[n] * g).sum() for n, g in self.gradients.items()]).sum()
        return self.figures["loss"].sum() + linear - linear.detach()


@attrs.frozen
class ObjectiveBatch:
    """What one objective collates from the samples of a micro-batch.

    Attributes:
        num_targets: Number of terms in the loss sum (masked tokens, pairs, questions).
        pairs: The pairs to fuse; None for a text-only or image-only objective.
        tensors: Labels and indices. Select with index tensors rather than boolean masks: shapes
            then do not depend on the data, which `check` and `torch.compile` require.
        identifiers: Names of the targets in `predictions`, such as question ids.
        whole: Set by the engine for an objective that compares with the global batch, where that
            has several micro-batches.
    """

    num_targets: int
    pairs: Pairs | None = None
    tensors: Mapping[str, Tensor] = attrs.field(factory=dict)
    identifiers: tuple[object, ...] = ()
    whole: WholeBatch | None = None

    @property
    def fused_pairs(self) -> Pairs:
        """The pairs, for an objective that always requests some.

        Raises:
            PluginError: If there are none.
        """
        if self.pairs is None:
            raise PluginError(
                "the objective reads the pairs of its batch, which has none; return Pairs in the "
                "ObjectiveBatch"
            )
        return self.pairs


class BatchBuilder(Protocol):
    """Assembles the texts and images of one micro-batch; handed to `Objective.collate`.

    Each distinct text view and each distinct image has one row, shared by all objectives.
    """

    tokenizer: "PreTrainedTokenizerFast"
    max_text_length: int
    training: bool

    def text(self, sample: KeyedSample) -> int:
        """Return the row of the sample's plain text, including its second text if it has one."""
        ...

    def input_ids(self, sample: KeyedSample) -> NDArray[np.int64]:
        """Return the plain text's token ids, with special tokens, truncated: (tokens,), int64."""
        ...

    def word_ids(self, sample: KeyedSample) -> NDArray[np.int64]:
        """Return the index of each token's word, -1 for special tokens: (tokens,), int64."""
        ...

    def text_view(self, sample: KeyedSample, view: str, input_ids: NDArray[np.int64]) -> int:
        """Return the row of another version of the sample's text, such as "masked"."""
        ...

    def existing_view(self, sample: KeyedSample, view: str) -> int | None:
        """Return the row of a view of the sample's text, if an objective before has added it."""
        ...

    def image(self, sample: KeyedSample, which: int = 0) -> int:
        """Return the row of one of the sample's images."""
        ...

    def other_sample(self, sample: KeyedSample, purpose: str) -> KeyedSample:
        """Return a random sample of the dataset with a different image, keyed by `purpose`.

        Raises:
            DataError: If the dataset has no second image.
        """
        ...
