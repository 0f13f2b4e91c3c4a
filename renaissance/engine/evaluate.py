"""One pass over a split, every sample exactly once over all ranks."""

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import attrs
import torch
from PIL import Image

from renaissance.contracts.monitor import PanelImage
from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.collate import Collator
from renaissance.data.loader import MicroBatchLoader, StoppedWaitingError
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.order import evaluation_order
from renaissance.data.workers import count_workers
from renaissance.engine.distributed import Ranks
from renaissance.engine.gathering import gathered
from renaissance.engine.metrics import MetricBook
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.panel_images import PanelImages
from renaissance.engine.precision import autocast
from renaissance.engine.predictions import Prediction, predictions_of
from renaissance.engine.progress import progress
from renaissance.engine.watch import Pulse
from renaissance.engine.whole_split import STOPPED, WholeSplit
from renaissance.errors import DataError
from renaissance.spec.sections import ResolvedSpec

R = TypeVar("R")
# By micro-batch: index of its first sample, which puts those of all ranks in order; a name; rows.
Collected: TypeAlias = list[tuple[int, str, list[R]]]


@attrs.frozen
class SplitResult:
    """The result of a pass over a split.

    Attributes:
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        panel: Pictures with what the objectives say about them.
        predictions: Rows by objective, in the order of the samples; empty unless asked for.
        num_bad_samples: Records that could not be read and were left out.
        num_samples: Samples that the figures are of.
        num_targets: Targets by objective, such as masked tokens; losses are means over these.
        pictures: Pictures of metrics, by "<objective>/<picture>".
        scores: Scores of the samples by metric, "<objective>/<metric>", in the order of the
            samples; empty unless `is_final`.
    """

    metrics: dict[str, float]
    panel: list[PanelImage]
    predictions: dict[str, list[Prediction]]
    num_bad_samples: int
    num_samples: int
    num_targets: dict[str, int]
    pictures: dict[str, Image.Image] = attrs.field(factory=dict)
    scores: dict[str, list[float]] = attrs.field(factory=dict)


@attrs.frozen
class _Outputs:
    """What one rank collects from its micro-batches, besides metrics.

    Attributes:
        panel: As in `SplitResult`; rank 0 only.
        predictions: Rows by objective.
        scores: Scores of samples by metric.
        bad_samples: A message for each record that could not be read, by index.
    """

    panel: list[PanelImage] = attrs.field(factory=list)
    predictions: Collected[Prediction] = attrs.field(factory=list)
    scores: Collected[float] = attrs.field(factory=list)
    bad_samples: dict[int, str] = attrs.field(factory=dict)


def evaluate(
    network: MultiObjective,
    collator: Collator,
    spec: ResolvedSpec,
    ranks: Ranks,
    is_final: bool = False,
    predict: bool = False,
    is_stopping: Callable[[], bool] = lambda: False,
    pulse: Pulse | None = None,
) -> SplitResult:
    """Evaluate; every rank must call it, and every rank gets the same figures.

    Args:
        network: Model and objectives, on the device.
        collator: Makes the micro-batches of the split.
        spec: The run spec.
        ranks: The processes of the run.
        is_final: True in `renaissance evaluate`, where costly metrics are computed too.
        predict: Collect predictions.
        is_stopping: Asked between micro-batches, and while metrics of the whole split are
            computed: whether to give up.
        pulse: Beats with each of these, and rests where ranks wait for each other.

    Raises:
        DataError: If more records cannot be read than `data.max_bad_samples` allows.
        StoppedWaitingError: On every rank, if any rank was asked to stop.
    """
    with gathered(network):
        return _evaluate(
            network, collator, spec, ranks, is_final, predict, is_stopping, pulse or Pulse()
        )


def _evaluate(
    network: MultiObjective,
    collator: Collator,
    spec: ResolvedSpec,
    ranks: Ranks,
    is_final: bool,
    predict: bool,
    is_stopping: Callable[[], bool],
    pulse: Pulse,
) -> SplitResult:
    was_training = network.training
    network.eval()
    book = MetricBook(network.learning_objectives(), spec.loss_weights, ranks.device)

    def run() -> _Outputs | None:
        try:
            return _run(network, collator, spec, ranks, book, predict, is_final, is_stopping, pulse)
        except StoppedWaitingError:
            return None
        finally:
            pulse.rest()

    # Ranks have different samples, so one may fail alone.
    outputs = ranks.on_all_ranks(run)
    num_stopped = ranks.sum([float(outputs is None)])[0]
    if outputs is None or num_stopped:
        network.train(was_training)
        raise StoppedWaitingError(STOPPED)
    num_bad = _count_bad_samples(outputs.bad_samples, spec.data.max_bad_samples, ranks)
    try:
        metrics = book.compute() | _split_metrics(
            network, collator, spec, ranks, is_final, is_stopping, pulse
        )
    finally:
        network.train(was_training)
    return SplitResult(
        metrics,
        outputs.panel,
        _in_sample_order(outputs.predictions, ranks) if predict else {},
        num_bad,
        len(collator.datasets) - num_bad,
        book.num_targets(),
        book.pictures(),
        _in_sample_order(outputs.scores, ranks) if is_final else {},
    )


def _run(
    network: MultiObjective,
    collator: Collator,
    spec: ResolvedSpec,
    ranks: Ranks,
    book: MetricBook,
    predict: bool,
    is_final: bool,
    is_stopping: Callable[[], bool],
    pulse: Pulse,
) -> _Outputs:
    """Run this rank's share of the split, and add it to the metrics."""
    order = evaluation_order(
        len(collator.datasets), spec.evaluate.micro_batch_size, ranks.rank, ranks.world_size
    )
    # Starting a worker takes longer than loading a few micro-batches.
    num_workers = min(count_workers(spec.data.num_workers), len(order) // 4)
    loader = MicroBatchLoader(collator, order, num_workers, ranks.device, is_stopping)
    collected = _Outputs()
    panel = PanelImages(
        network,
        collator.reader.tokenizer,
        collected.panel,
        spec.evaluate.num_panel_images,
        collator.pixels_of,
    )
    with progress(
        "evaluation", sum(map(len, order)), "samples", ranks.is_main, has_terminal=is_final
    ) as advance:
        for keys, micro_batch in zip(order, loader, strict=True):
            batch = micro_batch.to(ranks.device)
            with torch.no_grad(), autocast(spec.train.precision, ranks.device):
                outputs = network(batch)
            book.update(batch, outputs)
            collected.bad_samples.update(micro_batch.bad_samples)
            if predict:
                collected.predictions.extend(_predictions(network, batch, outputs))
            if is_final:
                collected.scores.extend(_scores(network, batch, outputs))
            if ranks.is_main:
                panel.add(batch, outputs)
            advance(len(keys))
            pulse.beat()
    return collected


def _predictions(
    network: MultiObjective, batch: MicroBatch, outputs: Mapping[str, ObjectiveOutput]
) -> Collected[Prediction]:
    first = int(batch.indices[0])
    objectives = network.named_objectives()
    return [
        (first, name, predictions_of(objectives[name], its_batch, outputs[name]))
        for name, its_batch in batch.objectives.items()
    ]


def _scores(
    network: MultiObjective, batch: MicroBatch, outputs: Mapping[str, ObjectiveOutput]
) -> Collected[float]:
    first = int(batch.indices[0])
    objectives = network.named_objectives()
    return [
        (first, f"{name}/{metric}", scores.float().tolist())
        for name, its_batch in batch.objectives.items()
        for metric, scores in objectives[name].sample_scores(its_batch, outputs[name]).items()
    ]


def _count_bad_samples(messages_of: Mapping[int, str], limit: int, ranks: Ranks) -> int:
    """Return the number of distinct unreadable records, if it is within the limit."""
    total = len(ranks.union(messages_of))
    messages = list(messages_of.values())
    if total > limit:
        raise DataError(
            f"evaluation: {total} records cannot be read (data.max_bad_samples = {limit}), such "
            f"as: {'; '.join(messages[:3]) or 'on another rank'}"
        )
    return total


def _split_metrics(
    network: MultiObjective,
    collator: Collator,
    spec: ResolvedSpec,
    ranks: Ranks,
    is_final: bool,
    is_stopping: Callable[[], bool],
    pulse: Pulse,
) -> dict[str, float]:
    """Return the metrics that objectives compute over the whole split."""
    metrics: dict[str, float] = {}
    for name, objective in network.named_objectives().items():
        split = WholeSplit(network, collator, name, spec, ranks, is_final, is_stopping, pulse)
        values = split.metrics(objective)
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
    return metrics


def _in_sample_order(collected: Collected[R], ranks: Ranks) -> dict[str, list[R]]:
    """Return all ranks' rows by name, in the order of the samples."""
    # As JSON, since ranks exchange no pickles.
    texts = ranks.gather_text(json.dumps(collected))
    everyone = [tuple(entry) for text in texts for entry in json.loads(text)]
    ordered: dict[str, list[R]] = {}
    for _, name, rows in sorted(everyone, key=lambda entry: entry[0]):
        if rows:
            ordered.setdefault(name, []).extend(rows)
    return ordered
