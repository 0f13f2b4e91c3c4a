"""The contract of objectives."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import attrs
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.batches import BatchBuilder, ObjectiveBatch, Pairs
from renaissance.contracts.component import Component
from renaissance.contracts.features import Features, ModelSizes
from renaissance.contracts.head import Head
from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.splits import SplitEvaluator
from renaissance.contracts.tokens import Modality, Tokens

if TYPE_CHECKING:
    # It takes a second to import; only who makes a metric needs it.
    from torchmetrics import Metric


@attrs.frozen
class ObjectiveOutput:
    """What an objective returns.

    Attributes:
        loss_sum: Loss summed over the targets; the engine divides by their global number.
        predictions: Tensors for metrics and panels; detached.
    """

    loss_sum: Tensor
    predictions: Mapping[str, Tensor] = attrs.field(factory=dict)


@attrs.frozen
class PanelEntry:
    """One image of the picture panel shown at evaluation.

    Attributes:
        image_row: Row of the image in the micro-batch.
        lines: Short lines of text to write under it.
    """

    image_row: int
    lines: tuple[str, ...]


@attrs.frozen
class ObjectiveContext:
    """What an objective may need to know of the run.

    Attributes:
        sizes: Widths of the model's outputs.
        tokenizer: The run's tokenizer.
        make_head: Builds the head of the run spec's `[objectives.head]`, or else the component
            named by the third argument: `make_head(input_size, output_size)`.
        root: `data.root`, against which relative paths are resolved.
    """

    sizes: ModelSizes
    tokenizer: PreTrainedTokenizerFast
    make_head: Callable[[int, int], Head]
    root: Path = Path()


class Objective(nn.Module, Component, ABC):
    """A task: owns its head, its collation, its loss and its metrics.

    Attributes:
        requires: What samples must hold, in the words of `Dataset.provides`.
        labels: What it also needs to learn and to measure. A split that does not provide them can
            only be predicted: `collate` then counts no targets, and no metric is reported.
        unimodal: Modalities whose own encodings (`Features.text`, `.image`) it reads.
        compatible_heads: Types of objectives whose weights fit it, for `model.init_from`.
        default_head: Registered name of the head that it makes where the run spec names none; None
            for an objective without a head, whose spec may then name none.
    """

    requires: ClassVar[frozenset[str]]
    labels: frozenset[str] = frozenset()
    unimodal: ClassVar[frozenset[Modality]] = frozenset()
    compatible_heads: ClassVar[tuple[str, ...]] = ()
    default_head: ClassVar[str | None] = None

    @abstractmethod
    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Ask the builder for texts and images, and make labels; runs in loader workers."""

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return a similarity of every text with every image, (texts, images), if it learns one.

        Other objectives choose their pairs by it. It is given the features of `unimodal`.
        """
        return None

    def pairs(self, batch: ObjectiveBatch, similarity: Tensor | None) -> Pairs | None:
        """Return the pairs to fuse; override to choose them by similarity.

        Args:
            batch: What was collated.
            similarity: Of the micro-batch's text rows and image rows, (texts, images), without
                gradient; None where no objective of the run learns one.
        """
        return batch.pairs

    @abstractmethod
    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Compute the loss, summed over the targets."""

    def metrics(self) -> "dict[str, Metric]":
        """Return fresh metrics by name (the loss itself is always reported)."""
        return {}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch to the metrics."""

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return metrics that need the whole split, after the pass over its micro-batches.

        Called on every rank, in evaluation mode without gradient; every rank returns the same.
        """
        return {}

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return what it predicts for each target, for `renaissance evaluate --predictions`.

        Rows hold what JSON holds; they are gathered in the order of the samples.
        """
        return []

    def write_predictions(self, rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
        """Write a split's predictions; JSON lines unless overridden."""
        for row in rows:
            file.write(json.dumps(row) + "\n")

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Return entries for the picture panel at evaluation.

        Args:
            batch: What was collated.
            output: What `forward` returned.
            input_ids: Text rows of the micro-batch, (texts, tokens), int64.
        """
        return []
