"""What must hold for a run to start, for `renaissance train` and `renaissance check` alike."""

import copy

import attrs
import torch
from torch import nn

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.agreement import probe_keys
from renaissance.engine.distributed import choose_device
from renaissance.engine.estimate import Memory, estimate
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import RunParts
from renaissance.errors import SpecError
from renaissance.spec.sections import RunSpec

# Of the largest GPU today. A run is often checked on another machine than it runs on.
LARGEST_GPU = 288 * 2**30
# Bytes of a micro-batch's pixels, and number of parameters, up to which training does not ask
# whether it fits: to estimate it takes a second, and that it does not fit shows at once.
MAX_UNASKED = 2**24


def read_probe(parts: RunParts) -> MicroBatch:
    """Return the first training samples, and read the first validation samples too.

    What cannot be read at all is found now, not after an epoch.

    Raises:
        DataError: If they cannot be read.
    """
    probe = parts.train[probe_keys(parts.train)]
    if parts.validate is not None:
        parts.validate[probe_keys(parts.validate)]
    return probe


def enable_gradient_checkpointing(parts: RunParts) -> None:
    """Enable it where `train.gradient_checkpointing` asks for it.

    Raises:
        SpecError: If an encoder or the fusion does not support it.
    """
    every_n_layers = {"none": 0, "all": 1, "half": 2}[parts.spec.train.gradient_checkpointing]
    if not every_n_layers:
        return
    for name, part in parts.network.model.parts().items():
        if isinstance(part, Encoder | Fusion):
            try:
                part.enable_gradient_checkpointing(every_n_layers)
            except ValueError as error:
                raise SpecError(f"train.gradient_checkpointing: model.{name}: {error}") from error


def check_memory(spec: RunSpec, memory: Memory) -> None:
    """Check that a micro-batch can fit.

    Raises:
        SpecError: If it cannot, by far.
    """
    device = choose_device(spec.train.device, 0, 0)
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        available = LARGEST_GPU
    # The estimate is good to about a third.
    if memory.total > 1.5 * available:
        raise SpecError(
            f"train.micro_batch_size: a rank would take about {memory.total / 2**30:,.0f} GiB, far "
            f"more than the {available / 2**30:,.0f} GiB that it could have; lower it (and "
            "train.global_batch_size, or add accumulation steps), or recompute activations "
            "(train.gradient_checkpointing)"
        )


def estimated_memory(parts: RunParts, probe: MicroBatch) -> Memory | None:
    """Estimate the memory of one rank that has the whole network, before a micro-batch is read.

    Args:
        parts: The parts of the run, with their parameters.
        probe: A few training samples.

    Returns:
        The memory; None if it is too little to ask, or cannot be estimated.
    """
    num_parameters = sum(parameter.numel() for parameter in parts.network.parameters())
    num_bytes = parts.plan.micro_batch_size * 3 * parts.spec.data.image_size**2
    may_be_sharded = parts.plan.world_size > 1 and num_parameters > MAX_UNASKED
    if num_bytes <= MAX_UNASKED and not may_be_sharded:
        return None
    shapes = attrs.evolve(parts, network=_on_meta(parts.network))
    try:
        with torch.device("meta"):
            return estimate(shapes, probe, parts.spec.optimizer.states_per_parameter).memory
    # A component may compute what the meta device cannot; the run itself still can.
    except Exception:
        return None


def _on_meta(network: MultiObjective) -> MultiObjective:
    """Return a copy of a network that has shapes, but no values."""
    copies: dict[int, object] = {
        id(parameter): nn.Parameter(
            torch.empty_like(parameter, device="meta"), parameter.requires_grad
        )
        for parameter in network.parameters()
    }
    copies |= {id(b): torch.empty_like(b, device="meta") for b in network.buffers()}
    return copy.deepcopy(network, copies)
