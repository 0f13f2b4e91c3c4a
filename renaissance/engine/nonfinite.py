"""Stop at a loss or gradient that is not finite, and save what is needed to find out why."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.checkpoint import TrainState, save_checkpoint, save_together
from renaissance.engine.distributed import Ranks
from renaissance.engine.messages import say
from renaissance.engine.shards import position_of
from renaissance.engine.tensors import first_few, local_of
from renaissance.errors import RenaissanceError, RunError
from renaissance.files import write_whole

MAX_SHOWN_INDICES = 20


def check_finite(network: nn.Module, step: int) -> None:
    """Check that an optimizer has made finite parameters of finite gradients.

    Raises:
        RunError: If it has not.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    # Read all at once: the host waits for the device only once.
    own = (local_of(value) for value in trained.values())
    finite = torch.stack([value.isfinite().all() for value in own]).tolist()
    names = [name for name, is_finite in zip(trained, finite, strict=True) if not is_finite]
    # Before the first step, they are what the run was given.
    if step and names:
        raise RunError(
            f"step {step}: the gradients were finite, but not what the optimizer made of "
            f"{first_few(names)}; it is not saved. The same command resumes from the last "
            "checkpoint; try a lower learning rate or another optimizer"
        )


def stop_not_finite(
    folder: Path,
    network: nn.Module,
    state: TrainState,
    spec_text: str,
    ranks: Ranks,
    micro_batches: Sequence[MicroBatch],
    outputs: Sequence[Mapping[str, ObjectiveOutput]],
) -> NoReturn:
    """Save the parameters before the step and every rank's micro-batches, then raise.

    Every rank must call it. If the parameters are not finite already, nothing is saved.

    Args:
        folder: The run folder.
        network: Model and objectives, before the step.
        state: How far the run is.
        spec_text: The resolved spec, TOML.
        ranks: The processes of the run.
        micro_batches: This rank's micro-batches of the step.
        outputs: What each objective returned for each of them.

    Raises:
        RunError: Naming step, objectives and sample indices.
    """
    check_finite(network, state.step)
    saved = folder / f"nonfinite-step-{state.step:08d}"
    if position_of(network) is not None:
        is_kept = _kept(lambda: save_together(saved, network, state, spec_text, ranks))
    else:
        is_kept = not ranks.is_main or _kept(
            lambda: save_checkpoint(saved, network, None, state, spec_text)
        )
    ranks.barrier()
    # On this machine's own disk, if the run folder is not shared.
    is_kept &= _kept(lambda: saved.mkdir(parents=True, exist_ok=True))
    for index, batch in enumerate(micro_batches):
        tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(batch).items()}
        path = saved / f"rank{ranks.rank}-micro-batch{index}.safetensors"
        is_kept &= _kept(partial(save_file, tensors, path))
    names, indices = _affected(micro_batches, outputs, ranks)
    if ranks.is_main:
        report = {"step": state.step, "objectives": names, "indices": indices}
        is_kept &= _kept(lambda: write_whole(saved / "report.json", json.dumps(report, indent=1)))
    all_kept = ranks.sum([float(is_kept)])[0] == ranks.world_size
    where = f"are in {saved}" if all_kept else f"could not all be written to {saved}"
    what = f"the loss of {', '.join(names)}" if names else "the gradient (the losses are finite)"
    num_more = len(indices) - MAX_SHOWN_INDICES
    more = f" and {num_more} more" if num_more > 0 else ""
    raise RunError(
        f"step {state.step + 1}: {what} is not finite; samples "
        f"{', '.join(map(str, indices[:MAX_SHOWN_INDICES]))}{more}. The parameters before the step "
        f"and the micro-batches {where}; try a lower learning rate, train.gradient_clip or "
        "train.precision = 'fp32', or look at these samples"
    )


def _kept(write: Callable[[], object]) -> bool:
    """Write some of the evidence; a full disk must not hide what it is evidence of."""
    try:
        write()
    except (OSError, SafetensorError, RenaissanceError) as error:
        say(f"warning: {error}")
        return False
    return True


def _affected(
    micro_batches: Sequence[MicroBatch],
    outputs: Sequence[Mapping[str, ObjectiveOutput]],
    ranks: Ranks,
) -> tuple[list[str], list[int]]:
    """Return the objectives whose loss is not finite on any rank, and the samples in question.

    These are the samples of the micro-batches with such a loss, or those of the whole step if it is
    only the gradient that is not finite.
    """
    # Of this rank: the objectives without a finite loss, for each of its micro-batches.
    not_finite = [
        {name for name, result in output.items() if not math.isfinite(result.loss_sum.item())}
        for output in outputs
    ]
    names = sorted(set().union(*not_finite))
    indices = [
        int(index)
        for batch, its_names in zip(micro_batches, not_finite, strict=True)
        if its_names or not names
        for index in batch.indices.tolist()
    ]
    report = {"objectives": names, "indices": indices}
    reports = [json.loads(text) for text in ranks.gather_text(json.dumps(report))]
    # A rank whose losses are finite reports all of its samples. They matter only if all ranks do.
    affected = [report for report in reports if report["objectives"]] or reports
    return (
        sorted({name for report in affected for name in report["objectives"]}),
        sorted({index for report in affected for index in report["indices"]}),
    )


def _tensors(batch: MicroBatch) -> dict[str, Tensor]:
    """Return all tensors of a micro-batch, by their path in it."""
    tensors: dict[str, Tensor] = {}

    def collect(path: str, value: Any) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                collect(f"{path}.{key}", entry)
        elif attrs.has(type(value)):
            for field in attrs.fields(type(value)):
                collect(f"{path}.{field.name}".lstrip("."), getattr(value, field.name))

    collect("", batch)
    return tensors
