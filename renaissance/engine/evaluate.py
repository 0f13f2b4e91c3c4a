"""One pass over a split, every sample exactly once over all ranks."""

import attrs
import torch
from PIL import Image, ImageOps

from renaissance.data.collate import Collator, MicroBatch
from renaissance.data.loader import MicroBatchLoader, evaluation_order
from renaissance.engine.distributed import Ranks
from renaissance.engine.metrics import MetricBook
from renaissance.engine.setup import autocast
from renaissance.engine.task import Task
from renaissance.errors import DataError
from renaissance.events import PanelImage
from renaissance.spec.sections import RunSpec


@attrs.frozen
class SplitResult:
    """Figures and pictures of a pass over a split."""

    metrics: dict[str, float]
    panel: list[PanelImage]


def evaluate(task: Task, collator: Collator, spec: RunSpec, ranks: Ranks) -> SplitResult:
    """Evaluate; every rank must call it, and every rank gets the same figures.

    Raises:
        DataError: If more records cannot be read than `data.max_bad_samples` allows.
    """
    weights = {o.name or o.type: o.weight for o in spec.objectives}
    book = MetricBook(task.named_objectives(), weights, ranks.device)
    requests = evaluation_order(
        len(collator.datasets), spec.evaluate.micro_batch_size, ranks.rank, ranks.world_size
    )
    # Without workers where they would cost more than they read.
    num_workers = min(spec.data.num_workers, len(requests) // 4)
    loader = MicroBatchLoader(collator, requests, num_workers, ranks.device)
    panel: list[PanelImage] = []
    bad: list[str] = []
    was_training = task.training
    task.eval()

    def run() -> None:
        for micro_batch in loader:
            bad.extend(micro_batch.bad_samples)
            on_device = micro_batch.to(ranks.device)
            with torch.no_grad(), autocast(spec.train.precision, ranks.device):
                outputs = task(on_device)
            book.update(on_device, outputs)
            if ranks.is_main and len(panel) < spec.evaluate.num_panel_images:
                panel.extend(_panel(task, on_device, outputs))

    # Ranks have different samples, so one may fail alone.
    ranks.together(run)
    task.train(was_training)
    num_bad = int(ranks.sum([len(bad)])[0])
    if num_bad > spec.data.max_bad_samples:
        raise DataError(
            f"evaluation: {num_bad} records cannot be read (data.max_bad_samples = "
            f"{spec.data.max_bad_samples}), such as: {'; '.join(bad[:3]) or 'on another rank'}"
        )
    return SplitResult(book.compute(), panel[: spec.evaluate.num_panel_images])


def _panel(task: Task, batch: MicroBatch, outputs: dict) -> list[PanelImage]:  # type: ignore[type-arg]
    """Return the micro-batch's images with what each objective has to say of them."""
    lines: dict[int, list[str]] = {}
    for name, objective in task.named_objectives().items():
        for entry in objective.panel(batch.objectives[name], outputs[name], batch.input_ids):
            lines.setdefault(entry.image_row, []).extend(entry.lines)
    if batch.pixel_values is None:
        return []
    return [
        PanelImage(
            ImageOps.contain(
                Image.fromarray(batch.pixel_values[row].permute(1, 2, 0).cpu().numpy()), (224, 224)
            ),
            tuple(text),
        )
        for row, text in sorted(lines.items())
    ]
