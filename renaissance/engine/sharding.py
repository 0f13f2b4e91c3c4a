"""Fully sharded data parallelism: `train.parallel = "fsdp"`.

Each rank keeps its rows of every parameter, gradient and optimizer state. A layer's parameters are
gathered while it computes (Rajbhandari et al., "ZeRO", SC 2020; torch's `fully_shard`).
"""

from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from renaissance.contracts.objective import ObjectiveOutput
from renaissance.engine.bf16_copies import following_modules
from renaissance.engine.distributed import Ranks
from renaissance.engine.gathering import units_of
from renaissance.engine.multi_objective import MultiObjective
from renaissance.spec.sections import TrainSection


def shard(network: MultiObjective, section: TrainSection, ranks: Ranks) -> None:
    """Keep only this rank's rows of each parameter; every rank must call it.

    Parameters become `DTensor`s, which know their rows. Layers are gathered one at a time; the rest
    of the network, with all that is tied, from the start of a forward pass to the end of backward.

    Args:
        network: Model and objectives, on the device; the same on every rank.
        section: `[train]`, resolved.
        ranks: The processes of the run.
    """
    mesh = ranks.mesh()
    # A scalar has no rows.
    scalars = {parameter for parameter in network.parameters() if parameter.ndim == 0}
    for scalar in scalars:
        if scalar.requires_grad:
            average = partial(_averaged, ranks.world_size)
            scalar.register_hook(average)  # type: ignore[no-untyped-call]
    is_bf16 = section.precision == "bf16" and section.residual == "bf16"
    following = following_modules(network) if is_bf16 else []
    reduced = torch.bfloat16 if section.gradient_compression == "bf16" else torch.float32
    own_dtype = MixedPrecisionPolicy(reduce_dtype=reduced)
    for part in network.model.parts().values():
        policy = own_dtype
        if any(part is follower for follower in following):
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduced)
        for unit in units_of(network, part):
            if policy.param_dtype is not None:
                _leave_autocast(unit, ranks.device)
            fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=scalars)
    # Backward of the root begins at tensors that it finds in lists, not in objects of ours.
    network.register_forward_hook(_with_losses)
    fully_shard(network, mesh=mesh, mp_policy=own_dtype, ignored_params=scalars)
    network.register_forward_hook(_without_losses)
    network.is_sharded = True
    if network.average is not None:
        decay, network.average = network.average.decay, None
        network.keep_average(decay)


def _averaged(world_size: int, gradient: Tensor) -> Tensor:
    """Return the average over ranks."""
    total = gradient.clone()
    dist.all_reduce(total)
    return total / world_size


def _leave_autocast(layer: nn.Module, device: torch.device) -> None:
    """Let a layer compute in the dtype of its parameters and input."""
    forward = layer.forward

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return forward(*args, **kwargs)

    layer.forward = run


def _with_losses(
    module: nn.Module, args: object, output: dict[str, ObjectiveOutput]
) -> tuple[Sequence[Tensor], dict[str, ObjectiveOutput]]:
    return [part.loss_sum for part in output.values()], output


def _without_losses(
    module: nn.Module, args: object, output: tuple[object, dict[str, ObjectiveOutput]]
) -> dict[str, ObjectiveOutput]:
    return output[1]
