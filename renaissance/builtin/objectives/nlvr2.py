"""Reasoning over two images: is a sentence true of the pair?

Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

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
    Pairs,
    PanelEntry,
    Submission,
    quoted,
)
from renaissance.builtin.objectives import submissions

if TYPE_CHECKING:
    from torchmetrics import Metric


class NLVR2(Classification):
    """True or false, from one text and two images.

    The text is fused with each image; token types tell the first image from the second. The two
    pooled vectors are classified together (Chen et al., 2020, "UNITER",
    section 4.1; Kim et al., 2021).
    """

    requires = frozenset({"text", "image", "identifier"})
    labels = frozenset({"answer"})
    classes = ("False", "True")
    identifier = "identifier"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.head = context.make_head(2 * context.sizes.pooled, len(self.classes))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each sentence with its first image and with its second.

        Raises:
            DataError: If a sample does not have two images.
        """
        text_rows, image_rows = [], []
        for sample in samples:
            count = len(sample.images)
            if count != 2:
                raise DataError(
                    f"{sample.source}: the number of images is {count}; nlvr2 expects 2. "
                    "Use it with a dataset of image pairs, such as 'nlvr2'"
                )
            text_rows += [builder.text(sample)] * 2
            image_rows += [builder.image(sample, 0), builder.image(sample, 1)]
        pairs = Pairs(
            text_rows=torch.tensor(text_rows),
            image_rows=torch.tensor(image_rows),
            image_types=torch.tensor([1, 2]).repeat(len(samples)),
        )
        groups = torch.tensor([_group(sample) for sample in samples])
        return self.batch_of(samples, pairs, {"groups": groups})

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Classify the two pooled vectors of each sentence together."""
        return self.head(features.pooled.reshape(len(batch.identifiers), -1))

    def metrics(self) -> "dict[str, Metric]":
        """Return the accuracy, and the share of sentences with all their examples right."""
        from renaissance.builtin.objectives.consistency import Consistency

        return {**super().metrics(), "consistency": Consistency()}

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch, if it has labels."""
        super().update_metrics(metrics, batch, output)
        if "labels" in batch.tensors:
            right = output.predictions["logits"].argmax(-1) == batch.tensors["labels"]
            metrics["consistency"].update(batch.tensors["groups"], right)

    def write_predictions(self, rows: Sequence[Mapping[str, object]], file: TextIO) -> None:
        """Write lines of identifier,True or identifier,False for the official evaluation."""
        submissions.write_csv([(row["identifier"], row["prediction"]) for row in rows], file)

    @classmethod
    def check_predictions(cls, file: Path, questions: Path) -> Submission:
        """Read predictions, and the questions from the official file, such as test1.json."""
        expected = "lines of identifier,True or identifier,False, without a header"
        answers = submissions.csv_answers(submissions.csv_rows(file, expected), cls.classes)
        return Submission(list(_questions(questions)), answers)

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, texts: Sequence[str]
    ) -> list[PanelEntry]:
        """Return each sentence below both of its images, with the predicted and true answers."""
        guesses = self.guesses(batch, output)
        return [
            PanelEntry(
                image_row, (f"image {pair % 2 + 1} of 2: {texts[text_row]}", guesses[pair // 2])
            )
            for pair, (text_row, image_row) in enumerate(batch.fused_pairs.rows())
        ]


def _group(sample: KeyedSample) -> int:
    """Return a hash of what the official evaluation counts as one sentence.

    That is a sentence about a set of images (dev-850 of dev-850-0-1), with whichever pair of the
    set it is shown. The text takes the place of the sentence's number, which files may lack.
    """
    image_set = sample.labels["identifier"].split("-")[:2]
    key = "\n".join((*image_set, str(sample.text)))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _questions(path: Path) -> Iterator[str]:
    """Yield the identifiers of the official sentences: one JSON object per line."""
    expected = "the official sentences of NLVR2"
    for line_number, line in enumerate(io.StringIO(submissions.read_text(path, expected)), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {line_number}"
        try:
            question = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: not valid JSON ({error}); expected {expected}. Download the file again"
            ) from error
        identifier = question.get("identifier") if isinstance(question, dict) else None
        if not isinstance(identifier, str):
            raise DataError(
                f"{where}: identifier is {quoted(identifier)}; expected {expected}, each "
                "with one such as test1-0-1-0. Download the file again"
            )
        yield identifier
