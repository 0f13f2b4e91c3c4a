"""Classify a sentence or a pair of sentences by the text encoder alone."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryF1Score, BinaryMatthewsCorrCoef

from renaissance import (
    BatchBuilder,
    Features,
    KeyedSample,
    Objective,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    option,
)
from renaissance_glue.tasks import TASKS, TaskName

HEADER = "index\tprediction\n"


class GlueObjective(Objective):
    """A head over the first token of the encoded text; no image is read and nothing is fused.

    The metrics are those of GLUE (Wang et al., 2019): Matthews correlation for cola; F1 of class 1
    and accuracy for mrpc and qqp; accuracy for the others.

    Args:
        options: The objective's options.
        context: The run's side.

    Attributes:
        labels: The task's name, under which the dataset of that task provides its label.
    """

    requires = frozenset({"text", "index"})
    unimodal = frozenset({"text"})

    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `glue`."""

        task: TaskName = option(help="Which task, as of the dataset.")

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.task = options.task
        self.classes = TASKS[options.task].classes
        self.labels = frozenset({options.task})  # type: ignore[misc]
        self.head = context.make_head(context.sizes.text, len(self.classes))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Note each sample's text row and label."""
        tensors = {"text_rows": torch.tensor([builder.text(sample) for sample in samples])}
        labels = [s.sample.labels[self.task] for s in samples if self.task in s.sample.labels]
        if labels:
            tensors["labels"] = torch.tensor(labels)
        return ObjectiveBatch(
            num_targets=len(labels),
            tensors=tensors,
            identifiers=tuple(sample.sample.labels["index"] for sample in samples),
        )

    def forward(self, batch: ObjectiveBatch, features: Features) -> ObjectiveOutput:
        """Classify the first tokens, of BERT and its kin [CLS]."""
        assert features.text is not None
        logits: Tensor = self.head(features.text.hidden_states[batch.tensors["text_rows"], 0])
        if "labels" in batch.tensors:
            loss_sum = F.cross_entropy(logits.float(), batch.tensors["labels"], reduction="sum")
        else:
            loss_sum = logits.float().sum() * 0
        return ObjectiveOutput(loss_sum, {"logits": logits.detach()})

    def metrics(self) -> dict[str, Metric]:
        """The metrics by which GLUE scores the task."""
        if self.task == "cola":
            return {"matthews": BinaryMatthewsCorrCoef(validate_args=False)}
        metrics: dict[str, Metric] = {"accuracy": MeanMetric(nan_strategy="disable")}
        if self.task in ("mrpc", "qqp"):
            metrics["f1"] = BinaryF1Score(validate_args=False)
        return metrics

    def update_metrics(
        self, metrics: Mapping[str, Metric], batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """See the base class."""
        if "labels" not in batch.tensors:
            return
        predicted, labels = output.predictions["logits"].argmax(-1), batch.tensors["labels"]
        for name, metric in metrics.items():
            if name == "accuracy":
                metric.update((predicted == labels).float())
            else:
                metric.update(predicted, labels)

    def predictions(self, batch: ObjectiveBatch, output: ObjectiveOutput) -> list[dict[str, Any]]:
        """The class of each line, as the task's files write it."""
        predicted = output.predictions["logits"].argmax(-1).tolist()
        return [
            {"index": index, "prediction": self.classes[number]}
            for index, number in zip(batch.identifiers, predicted, strict=True)
        ]

    def write_predictions(self, rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
        """Write the table that gluebenchmark.com takes: index and prediction, tab-separated."""
        file.write(HEADER)
        for row in rows:
            file.write(f"{row['index']}\t{row['prediction']}\n")
