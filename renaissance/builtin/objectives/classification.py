"""Classification of pictures, texts or both by a label of the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Classification,
    DataError,
    Features,
    KeyedSample,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    class_names,
    did_you_mean,
    fraction,
    option,
)
from renaissance.builtin.objectives.class_weights import class_weights
from renaissance.builtin.objectives.modalities import Inputs, identify, modalities_option

# With more classes, predictions name the probabilities of the likeliest alone.
MAX_LISTED = 10
NUM_LIKELIEST = 5


class LabelClassification(Classification):
    """Predicts the class of each sample, or any number of classes.

    The classes are those of the training data, or of a file, and are kept in the run folder. It
    reads text and image, fused, or one of them alone; with a frozen encoder, that is a linear
    probe. Metrics are accuracy, macro F1, AUROC (up to 100 classes) and, for one class per sample,
    a confusion matrix as a picture (up to 50 classes). With any number of classes per sample, a
    prediction counts as accurate if all its classes are right.
    """

    requires = frozenset[str]()
    default_head = "mlp"
    has_class_metrics = True

    @attrs.frozen
    class Options:
        """Options of `classification`."""

        label: str = option("label", help="Name of the label: a column of the data.")
        modalities: tuple[Literal["text", "image"], ...] = modalities_option()
        classes: Path | None = option(
            None,
            help="File of the classes, relative to data.root: one per line, or a JSON list. If "
            "absent, they are the values of the label in the training data.",
        )
        multi_label: bool | None = option(
            None,
            help="Whether a sample may have any number of classes. If absent, it may where the "
            "labels are lists, or there is a separator.",
        )
        separator: str | None = option(
            None, help='What separates the classes of a text, such as "|".'
        )
        class_weights: Literal["balanced"] | dict[str, float] | tuple[float, ...] | None = option(
            None,
            help='Weight of each class in the loss: "balanced" (all classes count alike), a table '
            "by name (1 for the others), or a list in the order of the classes.",
        )
        label_smoothing: float = option(
            0.0, help="Share of each target that is spread over all classes.", validator=fraction
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.inputs = Inputs.of(options.modalities, context.data)
        self.requires = frozenset[str](self.inputs.modalities)
        self.unimodal = self.inputs.unimodal
        self.labels = frozenset({options.label})
        classes = context.data.classes(
            options.label,
            file=None if options.classes is None else context.root / options.classes,
            separator=options.separator,
            multi_label=options.multi_label,
        )
        self.classes = classes.names
        self.multi_label = classes.multi_label
        self.label_smoothing = options.label_smoothing
        if options.class_weights is not None:
            self.class_weights = torch.tensor(class_weights(options.class_weights, classes))
        self._index = {name: index for index, name in enumerate(self.classes)}
        self.head = context.make_head(self.inputs.size(context.sizes), len(self.classes))

    def identify(self, sample: KeyedSample) -> object:
        """Return the sample's id, or else its index."""
        return identify(sample)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Request what it reads of each sample."""
        pairs, tensors = self.inputs.rows(samples, builder)
        return self.batch_of(samples, pairs, tensors)

    def target(self, sample: KeyedSample) -> int | Tensor:
        """Return the index of the sample's class, or 0 or 1 for each class.

        Raises:
            DataError: If the label is missing, or is not one of the classes.
        """
        value = sample.labels[self.options.label]
        where = f"{sample.source}: label '{self.options.label}'"
        try:
            names = class_names(value, self.options.separator)
        except ValueError as error:
            raise DataError(f"{where} {error}. Correct the row, or leave it out") from error
        unknown = [name for name in names if name not in self._index]
        if unknown or (len(names) != 1 and not self.multi_label):
            got = repr(unknown[0]) if unknown else f"a list of {len(names)}"
            raise DataError(
                f"{where} is {got}, expected {'a' if unknown else 'one'} class of the run: "
                f"{', '.join(map(repr, self.classes[:5]))}"
                f"{f', {len(self.classes) - 5} more' if len(self.classes) > 5 else ''}"
                f"{did_you_mean(unknown[0], self.classes) if unknown else ''}. Correct the row, "
                "or leave it out"
            )
        if not self.multi_label:
            return self._index[names[0]]
        target = torch.zeros(len(self.classes))
        target[[self._index[name] for name in names]] = 1.0
        return target

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Return the logit of every class."""
        return self.head(self.inputs.vectors(batch, features))

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return each sample's id or index, its class or classes, and their probabilities.

        With more than 10 classes, only the 5 likeliest are listed, the likeliest first.
        """
        logits = output.predictions["logits"]
        predicted = self.predicted(logits).tolist()
        probabilities = self.probabilities(logits).tolist()
        return [
            {
                **identifier,
                self.prediction: self.named(chosen),
                "probabilities": self._listed(shares),
            }
            for identifier, chosen, shares in zip(
                batch.identifiers, predicted, probabilities, strict=True
            )
            if isinstance(identifier, dict)
        ]

    def _listed(self, shares: Sequence[float]) -> dict[str, float]:
        named = dict(zip(self.classes, shares, strict=True))
        if len(named) <= MAX_LISTED:
            return named
        likeliest = sorted(named, key=lambda name: -named[name])[:NUM_LIKELIEST]
        return {name: named[name] for name in likeliest}
