"""Comparing samples with the whole global batch, though it passes through the model in parts.

Two passes, as in Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup", RepL4NLP 2021 (GradCache). The first encodes every micro-batch without gradient, keeps only
what samples are compared by, and computes the gradient of the loss with respect to that. The
second is the ordinary pass, one micro-batch at a time, which starts from those gradients.
"""

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from renaissance.contracts.batches import WholeBatch
from renaissance.contracts.features import Features
from renaissance.contracts.objective import Objective
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.bf16_copies import Bf16Copies
from renaissance.engine.gathering import gathered_root
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.spec.sections import Precision


def compare_whole_batch(
    network: MultiObjective,
    micro_batches: Sequence[MicroBatch],
    seeds: Sequence[int],
    precision: Precision,
    device: torch.device,
    copies: Bf16Copies,
) -> list[MicroBatch]:
    """Run the first pass for the objectives that compare with the global batch.

    Every rank must call it. Without such objectives, or with a single micro-batch, whose samples
    an objective compares by itself, nothing is done.

    Args:
        network: Model and objectives, on the device.
        micro_batches: This rank's micro-batches of a step.
        seeds: Seed of each one's dropout, which must be the same in both passes.
        precision: `train.precision`.
        device: The network's device.
        copies: Of the parameters, for both passes.

    Returns:
        The micro-batches, in which those objectives find what the comparison gave.
    """
    objectives = {
        name: objective
        for name, objective in network.named_objectives().items()
        if objective.compares_with == "global batch"
    }
    if len(micro_batches) == 1 or not objectives:
        return list(micro_batches)
    # The first pass must leave no trace in the statistics of batch norms.
    buffers = {name: buffer.clone() for name, buffer in network.running_buffers().items()}
    compared = []
    with gathered_root(network):
        for micro_batch, seed in zip(micro_batches, seeds, strict=True):
            torch.manual_seed(seed)
            with torch.no_grad(), copies.in_use(), autocast(precision, device, training=True):
                compared.append(_compared(network, objectives, micro_batch.to(device)))
    for name, buffer in network.running_buffers().items():
        buffer.copy_(buffers[name])
    results = list(micro_batches)
    for name, objective in objectives.items():
        present = [index for index, of_batch in enumerate(compared) if name in of_batch]
        parts = _compare(objective, [compared[index][name] for index in present])
        for index, part in zip(present, parts, strict=True):
            results[index] = _with(results[index], name, part)
    return results


def _compared(
    network: MultiObjective, objectives: Mapping[str, Objective], batch: MicroBatch
) -> dict[str, dict[str, Tensor]]:
    """Return what each objective compares the samples of a micro-batch by."""
    alone = network.encode_alone(objectives, network.encode(batch))
    features = Features(text=alone.get("text"), image=alone.get("image"))
    return {
        name: objective.compared(batch.objectives[name], features)
        for name, objective in objectives.items()
        if name in batch.objectives
    }


def _compare(objective: Objective, compared: Sequence[Mapping[str, Tensor]]) -> list[WholeBatch]:
    """Compare the samples of all micro-batches; return each one's part of the result."""
    if not compared:
        return []
    own = {name: torch.cat([part[name] for part in compared]) for name in compared[0]}
    learned = {
        name: tensor.requires_grad_() for name, tensor in own.items() if tensor.is_floating_point()
    }
    figures = objective.compare(own)
    gradients = torch.autograd.grad(figures["loss"].sum(), list(learned.values()))
    counts = [len(next(iter(part.values()))) for part in compared]
    parts = []
    start = 0
    for count in counts:
        rows = slice(start, start + count)
        parts.append(
            WholeBatch(
                gradients={n: g[rows] for n, g in zip(learned, gradients, strict=True)},
                figures={name: figure[rows].detach() for name, figure in figures.items()},
            )
        )
        start += count
    return parts


def _with(micro_batch: MicroBatch, name: str, whole: WholeBatch) -> MicroBatch:
    changed = attrs.evolve(micro_batch.objectives[name], whole=whole)
    return attrs.evolve(micro_batch, objectives={**micro_batch.objectives, name: changed})
