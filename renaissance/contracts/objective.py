"""The contract of objectives."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TextIO

import attrs
from torch import Tensor, nn

from renaissance.contracts.batches import BatchBuilder, ObjectiveBatch, Pairs
from renaissance.contracts.component import Component
from renaissance.contracts.encoder import PretrainedContrast
from renaissance.contracts.features import Features, ModelSizes
from renaissance.contracts.head import Head
from renaissance.contracts.monitor import Guess
from renaissance.contracts.samples import KeyedSample
from renaissance.contracts.splits import SplitEvaluator
from renaissance.contracts.submission import Submission
from renaissance.contracts.tokens import Modality, Summary, Tokens
from renaissance.contracts.training_data import NoTrainingData, TrainingData

if TYPE_CHECKING:
    # Not at run time: the imports take a second, and only runs need them.
    from PIL import Image
    from torchmetrics import Metric
    from transformers import PreTrainedTokenizerFast


@attrs.frozen
class ObjectiveOutput:
    """What an objective returns.

    Attributes:
        loss_sum: Loss summed over the targets; the engine divides by their number on all ranks.
        predictions: Detached tensors for metrics, predictions and panels.
    """

    loss_sum: Tensor
    predictions: Mapping[str, Tensor] = attrs.field(factory=dict)


@attrs.frozen
class PanelEntry:
    """One objective's lines about one image of the picture panel.

    Attributes:
        image_row: Row of the image in the micro-batch.
        lines: Short lines to write below it: plain text, such as a caption, or a `Guess`.
        group: What the panel should show as much of as of anything else, such as the true class.
    """

    image_row: int
    lines: tuple[str | Guess, ...]
    group: str = ""


@attrs.frozen
class ObjectiveContext:
    """What an objective may need to know about the run.

    Attributes:
        sizes: Widths of the model's outputs.
        tokenizer: The run's tokenizer.
        make_head: `make_head(input_size, output_size)` builds the head: the one of
            `[objectives.head]` in the run spec, or else the objective's `default_head`.
        root: `data.root`, against which relative paths are resolved.
        data: What it may know about the training data, such as the classes of a label.
        text_summary: Where the summary of an encoded text is, for `summarize`.
        image_summary: Where that of an encoded image is.
        text_contrast: How the pretrained model of the text encoder compares texts with images;
            None if it does not.
        image_contrast: The same of the image encoder.
    """

    sizes: ModelSizes
    tokenizer: "PreTrainedTokenizerFast"
    make_head: Callable[[int, int], Head]
    root: Path = Path()
    data: TrainingData = attrs.field(factory=NoTrainingData)
    text_summary: Summary = "first"
    image_summary: Summary = "first"
    text_contrast: PretrainedContrast | None = None
    image_contrast: PretrainedContrast | None = None


class Objective(nn.Module, Component, ABC):
    """A training task, with its head, collation, loss and metrics.

    `Classification` is the base for tasks that choose one class per sample.

    Attributes:
        requires: What samples must have, in the terms of `Dataset.provides`. Like `labels` and
            `unimodal`, set it per instance if it depends on the options.
        labels: What samples must have to compute the loss and the metrics. A split that does not
            provide them can only be predicted: `collate` then counts no targets, and no metric is
            reported.
        unimodal: Modalities that it reads before fusion (`Features.text`, `Features.image`).
        compatible_heads: Types of objectives whose parameters it can start from, for
            `model.init_from`.
        compares_with: With whose samples of a micro-batch it compares a sample, or replaces a part
            of it: those of its own rank, or of all ranks. What it learns then depends on how a
            global batch is divided, as `check` says. "global batch": with those of all
            micro-batches of a step, by `compared` and `compare`. None if it looks at each sample
            alone. Set it per instance if it depends on the options.
        learns: False for an objective that only evaluates whole splits: `collate` and `forward`
            are not called, and it needs no training data.
        default_head: Registered name of the head to use if the run spec names none; None for an
            objective without a head, for which the run spec must not name one.
    """

    requires: frozenset[str]
    labels: frozenset[str] = frozenset()
    unimodal: frozenset[Modality] = frozenset()
    compatible_heads: ClassVar[tuple[str, ...]] = ()
    default_head: ClassVar[str | None] = None
    learns: ClassVar[bool] = True
    compares_with: Literal["rank", "all ranks", "global batch"] | None = None

    @abstractmethod
    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Request rows of texts and images, and make labels; runs in loader workers."""

    def similarity(self, text: Tokens, image: Tokens) -> Tensor | None:
        """Return the similarity of every text to every image, (texts, images), if it learns one.

        Other objectives may choose their pairs by it.

        Args:
            text: Texts encoded alone, as in `Features.text`.
            image: Images encoded alone, as in `Features.image`.
        """
        return None

    def embed(self, tokens: Tokens, modality: Modality) -> Tensor | None:
        """Return one unit vector per text or image, (rows, size), float32, if it learns them.

        Args:
            tokens: Texts or images encoded alone, as in `Features.text` and `Features.image`.
            modality: Which of the two.
        """
        return None

    def embedding_layer(self, modality: Modality) -> nn.Linear | None:
        """Return the layer of `embed`, if that is one linear layer between summary and unit vector.

        Before it, there may be `embedding_norm`. `renaissance export` writes it for programs with
        such layers. By default, there is none.

        Args:
            modality: Which of the two.
        """
        return None

    def embedding_norm(self, modality: Modality) -> nn.LayerNorm | None:
        """Return the norm between summary and `embedding_layer`. By default, there is none.

        Args:
            modality: Which of the two.
        """
        return None

    def match_score(self, pooled: Tensor) -> Tensor | None:
        """Return how well texts and images match, (pairs,), float32, if it learns to tell.

        The score is the log-odds of a match: its sigmoid is a probability.

        Args:
            pooled: Pooled pairs, (pairs, pooled_size).
        """
        return None

    def token_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logit of each entry of the vocabulary, (tokens, vocabulary), if it learns to
        predict tokens.

        Args:
            hidden_states: Fused text tokens, (tokens, hidden).
        """
        return None

    def pairs(self, batch: ObjectiveBatch, similarity: Tensor | None) -> Pairs | None:
        """Return the pairs to fuse; override to choose them by similarity.

        Args:
            batch: What `collate` returned.
            similarity: Similarity of the micro-batch's text rows to its image rows,
                (texts, images), without gradient; None if no objective of the run learns one.
        """
        return batch.pairs

    def compared(self, batch: ObjectiveBatch, features: Features) -> dict[str, Tensor]:
        """Return what samples are compared by, (samples, ...) each.

        For objectives that compare with the global batch. The loss may depend on parameters only
        through these tensors, so that a learned scale is among them, repeated for every sample.
        The engine calls this for each micro-batch without gradient, then `compare`, and last
        `forward` for each micro-batch, whose loss is then `batch.whole.loss_sum(compared)`.
        """
        raise NotImplementedError

    def compare(self, compared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare the samples of this rank with those of all ranks.

        Args:
            compared: What `compared` returned, of all this rank's samples of a step.

        Returns:
            Figures of the samples by name, (samples,) each; "loss" is one.
        """
        raise NotImplementedError

    @abstractmethod
    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Compute the loss, summed over the targets."""

    def metrics(self) -> "dict[str, Metric]":
        """Return new metrics by name; the loss is always reported, so it need not be one.

        Asked anew for training, and for each evaluation in evaluation mode. A metric may compute a
        dictionary of figures; a "loss" among them replaces the mean of the losses, for an objective
        whose loss depends on how samples are batched.
        """
        return {}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch to the metrics."""

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return metrics that need the whole split at once.

        Called on every rank after the pass over the micro-batches, in evaluation mode and without
        gradient. Every rank must return the same values.
        """
        return {}

    def pictures(self, metrics: "Mapping[str, Metric]") -> "dict[str, Image.Image]":
        """Return pictures of the metrics of an evaluation by name, such as a confusion matrix.

        Called on every rank, after the metrics were computed. A metric whose value is not a single
        number is not reported as a figure, and serves only for this.
        """
        return {}

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return one row per target, for `renaissance evaluate --predictions`.

        Values must be ones that JSON can hold. The engine gathers the rows in sample order.
        """
        return []

    def sample_scores(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> dict[str, Tensor]:
        """Return the scores of the batch's samples by metric, (samples,), for paired comparisons.

        The mean of a split's scores must be the metric; metrics that are not a mean over samples
        are left out. `renaissance evaluate` keeps the scores in the run folder.
        """
        return {}

    def write_predictions(self, rows: Sequence[Mapping[str, object]], file: TextIO) -> None:
        """Write a split's predictions; JSON lines unless overridden."""
        for row in rows:
            file.write(json.dumps(row) + "\n")

    @classmethod
    def check_predictions(cls, file: Path, questions: Path) -> Submission:
        """Read a file of predictions and the questions that it must answer.

        `renaissance data validate-submission` compares the two; it accepts only objectives that
        override this. It is a class method because it needs no model.

        Args:
            file: What `write_predictions` wrote.
            questions: The official questions, or a prepared table.

        Raises:
            DataError: If a file cannot be read or does not have the expected form at all.
        """
        raise NotImplementedError

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return entries for the picture panel at evaluation.

        Args:
            batch: What `collate` returned.
            output: What `forward` returned.
            texts: The micro-batch's text rows, decoded; empty if there are none.
        """
        return []


def overrides(objective: Objective | type[Objective], method: str) -> bool:
    """Return whether an objective overrides a method of the contract."""
    component = objective if isinstance(objective, type) else type(objective)
    # Looked up statically: a bound class method is a new object at each access.
    return inspect.getattr_static(component, method) is not inspect.getattr_static(
        Objective, method
    )
