"""Visual question answering as classification of frequent answers.

Goyal et al., "Making the V in VQA Matter", CVPR 2017; soft scores as targets after Teney et al.,
"Tips and Tricks for Visual Question Answering", CVPR 2018.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from renaissance import (
    BatchBuilder,
    DataError,
    Features,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    PanelEntry,
    option,
)
from renaissance.builtin.objectives.classification import labelled, one_pair_a_sample
from renaissance.builtin.objectives.text import readable


class VQA(Objective):
    """Soft scores of all answers of the vocabulary, each by binary cross-entropy.

    The loss of a question is summed over the answers. Accuracy is the official one, over the
    questions of the split's files: an answer that n of ten people gave counts min(n / 3, 1),
    averaged over the ten ways to leave one of them out, which is 0.3, 0.6, 0.9 and 1 for one, two,
    three and more: the soft score. Preparation leaves out questions none of whose answers is in
    the vocabulary; the official figure counts them as 0.
    """

    requires = frozenset({"text", "image", "question_id"})
    labels = frozenset({"answer_labels", "answer_scores"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `vqa`."""

        answers: str = option(
            "vqav2_answers.json",
            help="JSON list of the answers by class, relative to data.root, as "
            "`renaissance data prepare vqav2` writes it.",
        )

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.tokenizer = context.tokenizer
        self.path = context.root / options.answers
        self.answers = _read_answers(self.path)
        self.head = context.make_head(context.sizes.pooled, len(self.answers))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Pair each question with its image.

        Raises:
            DataError: If a label is no class of the vocabulary.
        """
        known = labelled(samples, self.labels)
        scores = [self._scores(sample) for sample in samples] if known else []
        return ObjectiveBatch(
            num_targets=len(scores),
            pairs=one_pair_a_sample(samples, builder),
            tensors={"scores": torch.stack(scores)} if known else {},
            identifiers=tuple(sample.sample.labels["question_id"] for sample in samples),
        )

    def _scores(self, sample: KeyedSample) -> Tensor:
        """Return the score of every answer, (answers,)."""
        scores = torch.zeros(len(self.answers))
        labels = sample.sample.labels
        for label, score in zip(labels["answer_labels"], labels["answer_scores"], strict=True):
            if not 0 <= label < len(self.answers):
                raise DataError(
                    f"{sample.sample.source}: answer label {label}; expected 0 to "
                    f"{len(self.answers) - 1}, for {self.path} has {len(self.answers)} answers. "
                    "Set answers to the list that was prepared with this file"
                )
            scores[label] = score
        return scores

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Score the answers of each pooled pair."""
        assert features.fused is not None
        logits: Tensor = self.head(features.fused.pooled).float()
        if "scores" in batch.tensors:
            loss_sum = F.binary_cross_entropy_with_logits(
                logits, batch.tensors["scores"], reduction="sum"
            )
        else:
            loss_sum = logits.sum() * 0
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """Mean score of the predicted answers."""
        return {"accuracy": MeanMetric(nan_strategy="disable")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        if "scores" in batch.tensors:
            predicted = output.predictions["logits"].argmax(-1, keepdim=True)
            metrics["accuracy"].update(batch.tensors["scores"].gather(-1, predicted))

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """Return each question's answer."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"question_id": question_id, "answer": self.answers[label]}
            for question_id, label in zip(batch.identifiers, predicted, strict=True)
        ]

    def write_predictions(self, rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
        """Write one JSON list, the official form of a submission."""
        json.dump(list(rows), file)

    def panel(
        self, batch: ObjectiveBatch, output: ObjectiveOutput, input_ids: Tensor | None
    ) -> list[PanelEntry]:
        """Each question, its predicted answer, and the best one."""
        assert batch.pairs is not None
        assert input_ids is not None
        predicted = output.predictions["logits"].argmax(-1).tolist()
        best = batch.tensors["scores"].argmax(-1).tolist() if "scores" in batch.tensors else None
        entries = []
        for place, (text_row, image_row) in enumerate(
            zip(batch.pairs.text_rows.tolist(), batch.pairs.image_rows.tolist(), strict=True)
        ):
            truth = f" (truth: {self.answers[best[place]]})" if best else ""
            text = readable(self.tokenizer, input_ids[text_row])
            line = f"{text} {self.answers[predicted[place]]}{truth}"
            entries.append(PanelEntry(image_row, (line,)))
        return entries


def _read_answers(path: Path) -> list[str]:
    """Return the answers by class.

    Raises:
        DataError: If the file is missing, or no list of different texts.
    """
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected the answers of vqa by class. Run 'renaissance data "
            "prepare vqav2', which writes it beside the tables, or set answers to its path"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a JSON list of the answers of vqa by "
            "class. Run 'renaissance data prepare vqav2' again"
        ) from error
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
        or len(set(answers)) != len(answers)
    ):
        raise DataError(
            f"{path}: expected a JSON list of different texts, the answers of vqa by class. Run "
            "'renaissance data prepare vqav2' again"
        )
    return answers
