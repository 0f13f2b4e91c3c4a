"""Zero-shot classification: the class whose name is most similar to the image.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP),
ICML 2021: the names are put into templates, and the vectors of a class are averaged over them.
"""

from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from renaissance import (
    BatchBuilder,
    DataError,
    EncodedRows,
    Features,
    KeyedSample,
    Modality,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    SpecError,
    SplitEvaluator,
    class_names,
    did_you_mean,
    option,
)

PLACE = "{}"
TOP = 5


def _templates(instance: object, attribute: object, value: Sequence[str]) -> None:
    for template in value:
        if template.count(PLACE) != 1:
            raise ValueError(
                f"got {template!r}, expected one {PLACE} in each template, for the name of the "
                'class, as in "a photo of a {}."'
            )
    if not value:
        raise ValueError('got no template, expected at least one, such as "a photo of a {}."')


class ZeroShot(Objective):
    """Zero-shot classification of images by the similarity that another objective learns.

    It trains nothing. At each evaluation it measures accuracy, accuracy within the first 5 (with
    more than 5 classes), and the mean of the accuracies of the classes.
    """

    requires = frozenset({"image"})
    learns = False

    @attrs.frozen
    class Options:
        """Options of `zero-shot`."""

        classes: Path = option(
            help="File of the names of the classes, relative to data.root: one per line, or a JSON "
            "list.",
        )
        label: str = option(
            "label", help="Name of the label, a column of the data: the class of each sample."
        )
        templates: tuple[str, ...] = option(
            ("a photo of a {}.",),
            help="Texts in which {} stands for the name of a class; the vectors of a class are "
            "averaged over them.",
            validator=_templates,
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.labels = frozenset({options.label})
        self.classes = context.data.names(context.root / options.classes)

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Request nothing: the whole split is evaluated at once."""
        return ObjectiveBatch(num_targets=0)

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Return a loss of 0."""
        return ObjectiveOutput(torch.zeros(()))

    def evaluate_split(self, split: SplitEvaluator) -> dict[str, float]:
        """Return the accuracies.

        Raises:
            SpecError: If no objective of the run learns to embed texts and images.
            DataError: If a sample has no label, or one that is not among the classes.
        """
        targets = self._targets(split)
        if not targets:
            return {}
        classes = self._class_vectors(split)
        own = range(split.rank, len(targets), split.world_size)
        ranks = torch.zeros(len(own), dtype=torch.int64)
        size = split.micro_batch_size
        for start in range(0, len(own), size):
            part = own[start : start + size]
            images = _embed(split, split.encode_images(part), "image")
            # (images, classes)
            cosines = images @ classes.T
            of_target = cosines.gather(1, torch.tensor([targets[i] for i in part])[:, None])
            # Equal cosines count against the class, so that equal vectors are no success.
            ranks[start : start + len(part)] = (cosines >= of_target).sum(1)
        own_targets = torch.tensor(targets)[split.rank :: split.world_size]
        return self._figures(split.gather(own_targets), split.gather(ranks))

    def _figures(self, targets: Tensor, ranks: Tensor) -> dict[str, float]:
        is_right = (ranks <= 1).double()
        by_class = [is_right[targets == t].mean() for t in sorted(set(targets.tolist()))]
        figures = {
            "accuracy": float(is_right.mean()),
            "mean_class_accuracy": float(torch.stack(by_class).mean()),
        }
        if len(self.classes) > TOP:
            figures[f"accuracy_top_{TOP}"] = float((ranks <= TOP).double().mean())
        return figures

    def _class_vectors(self, split: SplitEvaluator) -> Tensor:
        """Return the unit vector of each class, (classes, size)."""
        total = torch.zeros(())
        for template in self.options.templates:
            texts = [template.replace(PLACE, name) for name in self.classes]
            size = split.micro_batch_size
            vectors = [
                _embed(split, split.encode_given_texts(texts[start : start + size]), "text")
                for start in range(0, len(texts), size)
            ]
            total = total + torch.cat(vectors)
        return F.normalize(total, dim=-1)

    def _targets(self, split: SplitEvaluator) -> list[int]:
        """Return the index of each sample's class."""
        index_of = {name: index for index, name in enumerate(self.classes)}
        targets: list[int] = []
        given = list(split.labels(self.options.label))
        if all(value is None for _, value in given):
            return targets  # An unlabelled split.
        for source, value in given:
            where = f"{source}: label '{self.options.label}'"
            try:
                (name,) = class_names(value)
            except ValueError as error:
                raise DataError(
                    f"{where} is {value!r}, expected one class; correct the row, or name in the "
                    "dataset's objectives those that it is for"
                ) from error
            if name not in index_of:
                raise DataError(
                    f"{where} is {name!r}, expected a class of {self.options.classes}"
                    f"{did_you_mean(name, self.classes)}; correct the row or the file"
                )
            targets.append(index_of[name])
        return targets


def _embed(split: SplitEvaluator, rows: EncodedRows, modality: Modality) -> Tensor:
    vectors = split.embed(rows, modality)
    if vectors is None:
        raise SpecError(
            "objective 'zero-shot': compares images with the names of classes by vectors that no "
            "objective of this run learns; train with [[objectives]] of type = 'itc' too"
        )
    return vectors
