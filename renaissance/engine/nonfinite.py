"""A loss or gradient that is not finite: save what is needed to look at it, say where it was."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from renaissance.contracts.batches import ObjectiveBatch, Pairs
from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.collate import MicroBatch
from renaissance.engine.checkpoint import TrainState, save_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.errors import RunError

NUM_SHOWN_INDICES = 20


def stop_not_finite(
    folder: Path,
    network: nn.Module,
    state: TrainState,
    spec_text: str,
    ranks: Ranks,
    micro_batches: Sequence[MicroBatch],
    outputs: Sequence[Mapping[str, ObjectiveOutput]],
) -> None:
    """Save the weights before the step and every rank's micro-batches, then raise.

    Every rank must call it.

    Raises:
        RunError: Naming step, objectives and sample indices.
    """
    where = folder / f"nonfinite-step-{state.step:08d}"
    bad = [
        {name for name, result in output.items() if not math.isfinite(result.loss_sum.item())}
        for output in outputs
    ]
    culprits = set().union(*bad)
    indices = [
        int(index)
        for batch, names in zip(micro_batches, bad, strict=True)
        if names or not culprits
        for index in batch.indices.tolist()
    ]
    if ranks.is_main:
        save_checkpoint(where, network, None, state, spec_text)
    ranks.barrier()
    for number, batch in enumerate(micro_batches):
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in _tensors(batch).items()},
            where / f"rank{ranks.rank}-micro-batch{number}.safetensors",
        )
    reports = [
        json.loads(text)
        for text in ranks.gather_text(
            json.dumps({"objectives": sorted(culprits), "indices": indices})
        )
    ]
    named = sorted({name for report in reports for name in report["objectives"]})
    # Where a loss is not finite, only the ranks that saw one say which samples these were.
    guilty = [r for r in reports if r["objectives"]] or reports
    shown = sorted({index for report in guilty for index in report["indices"]})
    if ranks.is_main:
        (where / "report.json").write_text(
            json.dumps({"step": state.step, "objectives": named, "indices": shown}, indent=1)
        )
    what = f"the loss of {', '.join(named)}" if named else "the gradient (the losses are finite)"
    more = f" and {len(shown) - NUM_SHOWN_INDICES} more" if len(shown) > NUM_SHOWN_INDICES else ""
    raise RunError(
        f"step {state.step + 1}: {what} is not finite; samples "
        f"{', '.join(map(str, shown[:NUM_SHOWN_INDICES]))}{more}. The weights before the step and "
        f"the micro-batches are in {where}; try a lower learning rate, train.gradient_clip, "
        "train.precision = 'fp32', or look at these samples"
    )


def _tensors(batch: MicroBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def collect(prefix: str, value: object) -> None:
        if isinstance(value, Tensor):
            found[prefix] = value
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                collect(f"{prefix}.{key}", entry)
        elif isinstance(value, MicroBatch | ObjectiveBatch | Pairs):
            for field in value.__attrs_attrs__:
                collect(f"{prefix}.{field.name}".lstrip("."), getattr(value, field.name))

    collect("", batch)
    return found
