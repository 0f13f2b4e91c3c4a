"""Visual entailment: does an image entail a sentence, contradict it, or neither?

Xie et al., "Visual Entailment: A Novel Task for Fine-Grained Image Understanding", 2019.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import attrs
from torch import Tensor

from renaissance import (
    Classification,
    Features,
    ObjectiveBatch,
    ObjectiveContext,
    Submission,
    quoted,
)
from renaissance.arrow import ArrowTable, CaptionIndex
from renaissance.builtin.objectives import submissions

HEADER = ("identifier", "prediction")


class SNLIVE(Classification):
    """Visual entailment: three classes from the fused hypothesis and image."""

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"entailment"})
    classes = ("contradiction", "neutral", "entailment")
    identifier = "identifier"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(context.sizes.pooled, len(self.classes))

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Classify the pooled pairs."""
        return self.head(features.pooled)

    def write_predictions(self, rows: Sequence[Mapping[str, object]], file: TextIO) -> None:
        """Write lines of identifier,prediction below a header."""
        submissions.write_csv(
            [HEADER, *(tuple(row[name] for name in HEADER) for row in rows)], file
        )

    @classmethod
    def check_predictions(cls, file: Path, questions: Path) -> Submission:
        """Read predictions, and the questions from the prepared Arrow file of the split.

        The questions have no official identifiers, so they are named by row and position, as in
        the dataset.
        """
        index = CaptionIndex(ArrowTable([questions], ["sentences"]).column("sentences"))
        identifiers = [":".join(map(str, index.locate(i))) for i in range(len(index))]
        expected = f"lines of identifier,prediction under the header {','.join(HEADER)}"
        rows = submissions.csv_rows(file, expected)
        _, header = next(rows, (1, []))
        if header != list(HEADER):
            raise submissions.wrong_form(
                file, f"the first line is {quoted(','.join(header))}", expected
            )
        return Submission(identifiers, submissions.csv_answers(rows, cls.classes))
