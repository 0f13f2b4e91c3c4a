"""What the tests of classification tasks share: tables, samples, objectives, given outputs."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from renaissance import (
    Dataset,
    DatasetContext,
    Features,
    Fused,
    Guess,
    ModelSizes,
    ObjectiveBatch,
    ObjectiveContext,
    ObjectiveOutput,
    Sample,
)
from renaissance.data.concatenation import Concatenation
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.tokenizer import readable
from renaissance.engine.training_data import TrainingAnswers
from renaissance.testing.samples import SampleList
from support.collating import collator, word_pieces

POOLED = 3


def png(level: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a grey picture as a PNG file."""
    file = io.BytesIO()
    Image.new("L", size, level).save(file, "PNG")
    return file.getvalue()


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write an Arrow file of one record batch."""
    batch = pa.RecordBatch.from_pydict(dict(columns))
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)


def dataset(component: Any, root: Path, training: bool = True, **options: Any) -> Dataset:
    """Make a dataset of a folder."""
    context = DatasetContext(root=root, seed=0, training=training)
    made: Dataset = component(component.Options(**options), context)
    return made


def all_samples(made: Dataset) -> list[Sample]:
    """Read all samples."""
    return [made.sample(i, np.random.default_rng(0)) for i in range(len(made))]


def sample(
    text: str, labels: Mapping[str, Any], number: int = 0, num_images: int = 1, size: int = 8
) -> Sample:
    """Return a sample of grey images."""
    ids = tuple((number, which) for which in range(num_images))
    images = tuple(Image.new("RGB", (size, size), (10 * number + which,) * 3) for _, which in ids)
    return Sample(text, None, images, ids, labels, f"given: {number}")


def objective(
    component: Any,
    root: Path = Path(),
    head: nn.Module | None = None,
    training: Sequence[Sample] = (),
    kept: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Make an objective; its head is `head`, or else a linear one.

    Args:
        component: The objective's class.
        root: `data.root`.
        head: The head.
        training: The training samples, for an objective that asks about them.
        kept: What the run folder keeps for it.
        options: The objective's options.
    """
    context = ObjectiveContext(
        sizes=ModelSizes(4, 4, 4, POOLED),
        tokenizer=word_pieces(whole_words=True),
        make_head=lambda inputs, outputs: head or nn.Linear(inputs, outputs),  # type: ignore[arg-type,return-value]
        root=root,
    )
    if training:
        datasets = Concatenation([("training", SampleList(training))])
        context = attrs.evolve(context, data=TrainingAnswers(lambda: datasets).of("task"))
    if kept is not None:
        answers = TrainingAnswers(lambda: Concatenation([]), {"task": {"kept": dict(kept)}})
        context = attrs.evolve(context, data=answers.of("task"))
    return component(component.Options(**options), context)


def collate(made: Any, samples: Sequence[Sample]) -> MicroBatch:
    """Collate samples for one objective, named "task"."""
    return collator(SampleList(samples), {"task": made}, word_pieces(whole_words=True))[
        [(0, index) for index in range(len(samples))]
    ]


def forward(made: Any, batch: ObjectiveBatch, pooled: Tensor) -> ObjectiveOutput:
    """Run an objective on given pooled vectors."""
    output: ObjectiveOutput = made(batch, Features(fused=Fused(pooled=pooled)))
    return output


def measured(
    made: Any, steps: Sequence[tuple[ObjectiveBatch, ObjectiveOutput]]
) -> dict[str, float]:
    """Return the metrics over some micro-batches."""
    metrics = made.metrics()
    for batch, output in steps:
        made.update_metrics(metrics, batch, output)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def predicting(made: Any, batch: ObjectiveBatch, logits: Sequence[Sequence[float]]) -> Any:
    """Return an output with given logits."""
    return ObjectiveOutput(torch.zeros(()), {"logits": torch.tensor(logits)})


def written(made: Any, rows: list[dict[str, Any]]) -> str:
    """Return the predictions as a file has them."""
    file = io.StringIO()
    made.write_predictions(rows, file)
    return file.getvalue()


def shown(
    made: Any, micro_batch: MicroBatch, output: ObjectiveOutput
) -> list[tuple[int, str, bool | None]]:
    """Return each entry of the panel: the image row, text and guess, and whether it is right.

    Without probabilities.
    """
    texts = readable(word_pieces(whole_words=True), micro_batch.input_ids)
    entries = made.panel(micro_batch.objectives["task"], output, texts)
    found = []
    for entry in entries:
        *texts_above, guess = entry.lines
        assert isinstance(guess, Guess)
        without = re.sub(r" \d\.\d\d", "", guess.text)
        line = ": ".join([*map(str, texts_above), without])
        found.append((entry.image_row, line, guess.is_right))
    return found
