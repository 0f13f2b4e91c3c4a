"""One pass over a split, every sample exactly once over all ranks."""

import itertools
import json
from typing import Any

import attrs
import torch
from PIL import Image, ImageOps

from renaissance.contracts.monitor import PanelImage
from renaissance.data.collate import Collator, MicroBatch
from renaissance.data.loader import MicroBatchLoader, evaluation_order
from renaissance.engine.distributed import Ranks
from renaissance.engine.metrics import MetricBook
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.engine.whole_split import WholeSplit
from renaissance.errors import DataError
from renaissance.spec.sections import RunSpec


@attrs.frozen
class SplitResult:
    """What a pass over a split gave.

    Attributes:
        metrics: "loss", "<objective>/loss" and the objectives' metrics.
        panel: Pictures with what the objectives say of them.
        predictions: Rows by objective, in the order of the samples; empty unless asked for.
        num_bad_samples: Records that could not be read and were left out.
    """

    metrics: dict[str, float]
    panel: list[PanelImage]
    predictions: dict[str, list[dict[str, Any]]]
    num_bad_samples: int


def evaluate(
    network: MultiObjective,
    collator: Collator,
    spec: RunSpec,
    ranks: Ranks,
    is_final: bool = False,
    predict: bool = False,
) -> SplitResult:
    """Evaluate; every rank must call it, and every rank gets the same figures.

    Args:
        network: Model and objectives, on the device.
        collator: Of the split.
        spec: The run spec.
        ranks: The processes of the run.
        is_final: True in `renaissance evaluate`, where costly metrics are computed too.
        predict: Collect predictions.

    Raises:
        DataError: If more records cannot be read than `data.max_bad_samples` allows.
    """
    weights = {o.name or o.type: o.weight for o in spec.objectives}
    objectives = network.named_objectives()
    book = MetricBook(objectives, weights, ranks.device)
    requests = evaluation_order(
        len(collator.datasets), spec.evaluate.micro_batch_size, ranks.rank, ranks.world_size
    )
    # Without workers where they would cost more than they read.
    num_workers = min(spec.data.num_workers, len(requests) // 4)
    loader = MicroBatchLoader(collator, requests, num_workers, ranks.device)
    panel: list[PanelImage] = []
    bad: list[str] = []
    # Each with the index of its micro-batch's first sample, by which they are put in order.
    rows: list[tuple[int, str, list[dict[str, Any]]]] = []
    was_training = network.training
    network.eval()

    def run() -> None:
        for micro_batch in loader:
            bad.extend(micro_batch.bad_samples)
            on_device = micro_batch.to(ranks.device)
            with torch.no_grad(), autocast(spec.train.precision, ranks.device):
                outputs = network(on_device)
            book.update(on_device, outputs)
            if predict:
                first = int(micro_batch.indices[0])
                for name, batch in on_device.objectives.items():
                    rows.append((first, name, objectives[name].predictions(batch, outputs[name])))
            if ranks.is_main and len(panel) < spec.evaluate.num_panel_images:
                panel.extend(_panel(network, on_device, outputs))

    # Ranks have different samples, so one may fail alone.
    ranks.on_all_ranks(run)
    num_bad = int(ranks.sum([len(bad)])[0])
    if num_bad > spec.data.max_bad_samples:
        raise DataError(
            f"evaluation: {num_bad} records cannot be read (data.max_bad_samples = "
            f"{spec.data.max_bad_samples}), such as: {'; '.join(bad[:3]) or 'on another rank'}"
        )
    metrics = book.compute()
    for name, objective in objectives.items():
        with torch.no_grad():
            split = WholeSplit(network, collator, name, spec, ranks, is_final)
            found = objective.evaluate_split(split)
        metrics.update({f"{name}/{metric}": value for metric, value in found.items()})
    network.train(was_training)
    panel = panel[: spec.evaluate.num_panel_images]
    return SplitResult(metrics, panel, _ordered(rows, ranks) if predict else {}, num_bad)


def _ordered(
    rows: list[tuple[int, str, list[dict[str, Any]]]], ranks: Ranks
) -> dict[str, list[dict[str, Any]]]:
    """Return all ranks' predictions by objective, in the order of the samples."""
    everyone = [tuple(r) for text in ranks.gather_text(json.dumps(rows)) for r in json.loads(text)]
    ordered: dict[str, list[dict[str, Any]]] = {}
    for _, name, found in sorted(everyone, key=lambda row: row[0]):
        if found:
            ordered.setdefault(name, []).extend(found)
    return ordered


def _panel(network: MultiObjective, batch: MicroBatch, outputs: dict) -> list[PanelImage]:  # type: ignore[type-arg]
    """Return the micro-batch's images with what each objective has to say of them.

    An image may have several texts. The objectives take turns, so that each has its say before the
    room under the image is full.
    """
    said: dict[int, dict[str, list[tuple[str, ...]]]] = {}
    objectives = network.named_objectives()
    for name, output in outputs.items():
        for entry in objectives[name].panel(batch.objectives[name], output, batch.input_ids):
            said.setdefault(entry.image_row, {}).setdefault(name, []).append(entry.lines)
    if batch.pixel_values is None:
        return []
    return [
        PanelImage(
            ImageOps.contain(
                Image.fromarray(batch.pixel_values[row].permute(1, 2, 0).cpu().numpy()), (224, 224)
            ),
            tuple(
                line
                for turn in itertools.zip_longest(*entries.values(), fillvalue=())
                for lines in turn
                for line in lines
            ),
        )
        for row, entries in sorted(said.items())
    ]
