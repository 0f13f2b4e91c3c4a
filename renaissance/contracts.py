"""What a plugin implements, and the values that pass between components.

Six kinds of component: encoder, pooler, fusion, objective, dataset, head. Each is a class with a
nested frozen attrs class `Options`, and is made as

    Encoder(options, context: EncoderContext)
    Fusion(options)
    Pooler(options, hidden_size: int)
    Head(options, input_size: int, output_size: int)
    Objective(options, context: ObjectiveContext)
    Dataset(options, context: DatasetContext)
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TextIO

import attrs
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric
from transformers import PreTrainedTokenizerFast

from renaissance.randomness import keyed_generator

Kind = Literal["encoder", "pooler", "fusion", "objective", "dataset", "head"]
Modality = Literal["text", "image"]
Read = Literal["all", "first", "none"]
Role = Literal["encoder", "fusion", "head"]


class Tokens(NamedTuple):
    """A sequence of token states with its mask.

    Attributes:
        hidden_states: (rows, tokens, hidden).
        attention_mask: True where real, (rows, tokens), bool.
    """

    hidden_states: Tensor
    attention_mask: Tensor


@attrs.frozen
class Sample:
    """One training example, as a dataset gives it.

    Attributes:
        text: The text, if any.
        text_pair: A second text, for sentence-pair tasks.
        images: Images, opened but not yet decoded (so that decoding can be scaled or saved).
        image_ids: One identifier an image; equal identifiers mean the same image.
        labels: Whatever else the dataset offers, by the names in `Dataset.offers`.
        source: File and row, for messages.
    """

    text: str | None = None
    text_pair: str | None = None
    images: tuple[Image.Image, ...] = ()
    image_ids: tuple[Hashable, ...] = ()
    labels: Mapping[str, Any] = attrs.field(factory=dict)
    source: str = ""


@attrs.frozen
class KeyedSample:
    """A sample with its place in the run, from which everything random about it is derived.

    Attributes:
        sample: The sample.
        seed: The run's seed.
        epoch: Epoch that the sample is drawn in (0 in evaluation).
        index: Index in the concatenation of the datasets of this split.
    """

    sample: Sample
    seed: int
    epoch: int
    index: int

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the random generator for one purpose: a function of (seed, epoch, index)."""
        return keyed_generator(self.seed, self.epoch, self.index, purpose)


@attrs.frozen
class Pairs:
    """Pairs to be fused, and what of the result will be read.

    Work whose output nobody reads is left out, so ask for what the loss needs and no more.

    Attributes:
        text_rows: Row of each pair's text in the micro-batch, (pairs,), int64.
        image_rows: Row of each pair's image, (pairs,), int64.
        image_types: 1 for a first image, 2 for a second one, (pairs,), int64; None means all 1.
        reads: Any of "text" (fused text tokens), "image" (fused image tokens), "pooled".
    """

    text_rows: Tensor
    image_rows: Tensor
    image_types: Tensor | None = None
    reads: frozenset[str] = frozenset({"pooled"})


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


@attrs.frozen
class Features:
    """What the model made of a micro-batch, as one objective sees it.

    Attributes:
        text: Text rows of the micro-batch, each encoded alone, if "text" is in `unimodal`.
        image: Image rows of the micro-batch, each encoded alone, if "image" is in `unimodal`.
        fused: This objective's pairs, if it asked for any.
    """

    text: Tokens | None = None
    image: Tokens | None = None
    fused: "Fused | None" = None


@attrs.frozen
class Fused:
    """What the model made of one objective's pairs; None where it is not read.

    Attributes:
        text: Fused text tokens, one row a pair.
        image: Fused image tokens, one row a pair.
        pooled: One vector a pair, (pairs, pooled_size).
    """

    text: Tokens | None = None
    image: Tokens | None = None
    pooled: Tensor | None = None


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
class EncoderContext:
    """What an encoder may need to know of the run.

    Attributes:
        image_size: Side of the square images, pixels.
        max_text_length: Longest text, tokens, special ones included.
        vocab_size: Size of the tokenizer's vocabulary.
        load_weights: False while only the shape of the model is wanted (`renaissance check`, or
            a run about to load a checkpoint): pretrained weights need not be read then.
        separator_id: The token after whose first occurrence a second text begins; None if the
            tokenizer gives both texts the same type.
    """

    image_size: int
    max_text_length: int
    vocab_size: int
    load_weights: bool = True
    separator_id: int | None = None


@attrs.frozen
class ModelSizes:
    """Widths that objectives and heads build on.

    Attributes:
        text: Hidden size of encoded text.
        image: Hidden size of encoded images.
        fused: Hidden size after fusion, of both modalities.
        pooled: Size of a pooled vector.
    """

    text: int
    image: int
    fused: int
    pooled: int


@attrs.frozen
class ObjectiveContext:
    """What an objective may need to know of the run.

    Attributes:
        sizes: Widths of the model's outputs.
        tokenizer: The run's tokenizer.
        make_head: Builds the head of the run spec's `[objectives.head]`, or else the component
            named by the third argument: `make_head(input_size, output_size, "mlp")`.
        root: `data.root`, against which relative paths are resolved.
    """

    sizes: ModelSizes
    tokenizer: PreTrainedTokenizerFast
    make_head: Callable[[int, int, str], "Head"]
    root: Path = Path()


@attrs.frozen
class DatasetContext:
    """What a dataset may need to know of the run.

    Attributes:
        root: `data.root`, against which relative paths are resolved.
        seed: The run's seed.
        training: True for `[[data.train]]`.
    """

    root: Path
    seed: int
    training: bool


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


class Component:
    """Common to all kinds: a class whose nested `Options` says what can be set from TOML."""

    Options: ClassVar[type[Any]]


class Encoder(nn.Module, Component, ABC):
    """Turns text, images or both into token states.

    `modalities` says which. An encoder of both is a joint encoder: its `encode_text` and
    `encode_image` only embed, and `encode_joint` runs one stack over the two together.

    Attributes:
        hidden_size: Width of the token states it returns.
    """

    modalities: ClassVar[frozenset[Modality]]
    hidden_size: int

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) texts.

        Args:
            input_ids: Token ids, (texts, tokens), int64.
            attention_mask: True where real, (texts, tokens), bool.
        """
        raise TypeError(f"{type(self).__name__} takes no text")

    def encode_image(self, pixel_values: Tensor) -> Tokens:
        """Encode (or, in a joint encoder, embed) images.

        Args:
            pixel_values: Normalized pixels, (images, 3, height, width).
        """
        raise TypeError(f"{type(self).__name__} takes no images")

    def encode_joint(self, tokens: Tokens) -> Tokens:
        """Run the joint stack over embedded tokens of one or both modalities."""
        raise TypeError(f"{type(self).__name__} is no joint encoder")

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Fit a tensor of the same encoder, for other image sizes or text lengths, to this one.

        Called by `model.init_from` for tensors whose shape differs: position tables, mostly.

        Args:
            name: Its name in this encoder's state dict.
            tensor: As the checkpoint has it.

        Returns:
            The tensor in this encoder's shape, or None if it is of another model.
        """
        return None

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward. Encoders that cannot say so by raising ValueError."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")


@attrs.frozen
class Reads:
    """What is read of a run of consecutive pairs after fusion.

    Attributes:
        num_pairs: How many pairs.
        text: Which fused text tokens are read.
        image: Which fused image tokens are read.
    """

    num_pairs: int
    text: Read = "all"
    image: Read = "all"


class Fusion(nn.Module, Component, ABC):
    """Lets the tokens of the two modalities attend to each other.

    Attributes:
        hidden_size: Width it takes and returns, of both modalities.
    """

    hidden_size: int

    @abstractmethod
    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Fuse pair by pair: hidden_states (pairs, tokens, hidden) in and out."""

    def fuse(
        self, text: Tokens, image: Tokens, reads: Sequence[Reads]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Fuse, and return for each run of pairs only what is read of it.

        Override this to leave out work whose output nobody reads (the last layer's, mostly). An
        entry read as "first" has one token, one read as "none" is None. The overriding method
        must agree with `forward` on every token it returns.
        """
        fused_text, fused_image = self(text, image)
        results = []
        start = 0
        for run in reads:
            pairs = slice(start, start + run.num_pairs)
            results.append(
                (_select(fused_text, pairs, run.text), _select(fused_image, pairs, run.image))
            )
            start += run.num_pairs
        return results

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward. Fusions that cannot say so by raising ValueError."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")


def _select(tokens: Tokens, pairs: slice, read: Read) -> Tokens | None:
    if read == "none":
        return None
    positions = slice(0, 1) if read == "first" else slice(None)
    return Tokens(tokens.hidden_states[pairs, positions], tokens.attention_mask[pairs, positions])


class Pooler(nn.Module, Component, ABC):
    """Makes one vector of the fused tokens of a pair.

    Attributes:
        output_size: Size of that vector.
        text_read: Which text tokens it reads.
        image_read: Which image tokens it reads.
    """

    output_size: int
    text_read: ClassVar[Read] = "all"
    image_read: ClassVar[Read] = "all"

    @abstractmethod
    def forward(self, text: Tokens | None, image: Tokens | None) -> Tensor:
        """Pool to (pairs, output_size); a modality read as "none" comes as None."""


class Head(nn.Module, Component, ABC):
    """Turns vectors into logits: (..., input_size) to (..., output_size)."""

    @abstractmethod
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the logits."""


class Dataset(Component, ABC):
    """A sequence of samples.

    Attributes:
        offers: What each sample holds: "text", "text_pair", "image", and names of labels.
        vocabulary: All words of its texts, the special tokens of BERT first, for a dataset that
            can be used without a tokenizer of its own.
    """

    offers: frozenset[str]
    vocabulary: Sequence[str] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sample; `generator` is keyed by (seed, epoch, index).

        Raises:
            DataError: If the record cannot be read; the message names file, row and cause.
        """


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


class Objective(nn.Module, Component, ABC):
    """A task: owns its head, its collation, its loss and its metrics.

    Attributes:
        requires: What samples must hold, in the words of `Dataset.offers`.
        labels: What it also needs to learn and to measure. A split that does not offer them can
            only be predicted: `collate` then counts no targets, and no metric is reported.
        unimodal: Modalities whose own encodings (`Features.text`, `.image`) it reads.
        starts_from: Types of objectives whose weights fit it, for `model.init_from`.
    """

    requires: ClassVar[frozenset[str]]
    labels: ClassVar[frozenset[str]] = frozenset()
    unimodal: ClassVar[frozenset[Modality]] = frozenset()
    starts_from: ClassVar[tuple[str, ...]] = ()

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

    def metrics(self) -> dict[str, Metric]:
        """Return fresh metrics by name (the loss itself is always reported)."""
        return {}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
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


KINDS: dict[Kind, type[Component]] = {
    "encoder": Encoder,
    "pooler": Pooler,
    "fusion": Fusion,
    "objective": Objective,
    "dataset": Dataset,
    "head": Head,
}
