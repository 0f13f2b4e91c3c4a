"""Classify a sentence or a sentence pair with the text encoder alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import attrs
import torch
from torch import Tensor

from renaissance import (
    BatchBuilder,
    Classification,
    Features,
    KeyedSample,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    accuracy,
    option,
)
from renaissance_glue.tasks import TASKS, TaskName

if TYPE_CHECKING:
    from torchmetrics import Metric

HEADER = "index\tprediction\n"


class GlueObjective(Classification):
    """A head over the first token of the encoded text; no image is read and nothing is fused.

    The metrics are those of GLUE (Wang et al., 2019): Matthews correlation for cola; F1 of class 1
    and accuracy for mrpc and qqp; accuracy for the others.

    Args:
        options: The objective's options.
        context: What it needs to know about the run.

    Attributes:
        labels: The task's name, under which the dataset provides the label.
    """

    requires = frozenset({"text", "index"})
    unimodal = frozenset({"text"})
    identifier = "index"
    default_head = "mlp"

    @attrs.frozen
    class Options:
        """Options of `glue`."""

        task: TaskName = option(help="The task, as in the dataset's options.")

    def __init__(self, options: Options, context: ObjectiveContext) -> None:
        super().__init__()
        self.task = options.task
        self.classes = TASKS[options.task].classes
        self.labels = frozenset({options.task})
        self.head = context.make_head(context.sizes.text, len(self.classes))

    def collate(self, samples: Sequence[KeyedSample], builder: BatchBuilder) -> ObjectiveBatch:
        """Keep each sample's text row."""
        rows = torch.tensor([builder.text(sample) for sample in samples])
        return self.batch_of(samples, tensors={"text_rows": rows})

    def logits(self, batch: ObjectiveBatch, features: Features) -> Tensor:
        """Classify the first token, which is [CLS] in BERT and similar models."""
        return self.head(features.text.hidden_states[batch.tensors["text_rows"], 0])

    def metrics(self) -> "dict[str, Metric]":
        """Return the metrics with which GLUE scores the task."""
        # Imported here because it takes a second, and only runs need it.
        from torchmetrics.classification import BinaryF1Score

        from renaissance_glue.matthews import Matthews

        if self.task == "cola":
            return {"matthews": Matthews(validate_args=False)}
        if self.task in ("mrpc", "qqp"):
            return {"accuracy": accuracy(), "f1": BinaryF1Score(validate_args=False)}
        return super().metrics()

    def update_metrics(
        self, metrics: "Mapping[str, Metric]", batch: ObjectiveBatch, output: ObjectiveOutput
    ) -> None:
        """Add one micro-batch, if it has labels."""
        if "labels" not in batch.tensors:
            return
        predicted, labels = output.predictions["logits"].argmax(-1), batch.tensors["labels"]
        for name, metric in metrics.items():
            if name == "accuracy":
                metric.update(self.score(predicted, labels))
            else:
                metric.update(predicted, labels)

    def write_predictions(self, rows: Sequence[Mapping[str, object]], file: TextIO) -> None:
        """Write the table for gluebenchmark.com: index and prediction, tab-separated."""
        file.write(HEADER)
        for row in rows:
            file.write(f"{row['index']}\t{row['prediction']}\n")
