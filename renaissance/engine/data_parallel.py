"""How ranks share a step: DistributedDataParallel around the network, or the network sharded."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.tensors import is_in_rows


def wrap(
    network: MultiObjective, world_size: int, compression: Literal["none", "bf16"] = "none"
) -> nn.Module:
    """Return the network, wrapped where there is more than one rank and it is not sharded.

    Args:
        network: Model and objectives.
        world_size: Number of ranks.
        compression: `train.gradient_compression`.
    """
    if world_size == 1 or network.is_sharded:
        return network
    # Only batch norm has buffers that change, and they must be the same on every rank.
    has_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    # torch 2.13 renamed the option; 2.11 knows the old name only.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: has_statistics}
    module = DistributedDataParallel(network, gradient_as_bucket_view=True, **options)
    if compression == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        # By its name, DDP would refuse the hook for other devices than CUDA's.
        hook = lambda group, bucket: bf16_compress_hook(group, bucket)  # noqa: E731
        module.register_comm_hook(module.process_group, hook)
    return module


def exchange(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Return a context in which backward exchanges gradients only for the last micro-batch.

    A sharded network exchanges those of each micro-batch: to keep them until the last would take as
    much memory as whole parameters.
    """
    if isinstance(module, DistributedDataParallel) and not is_last:
        context: AbstractContextManager[None] = module.no_sync()
        return context
    return nullcontext()


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients, the same on every rank."""
    norms = []
    for group in _by_kind(parameters):
        norm = nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])
        norms.append(norm.full_tensor() if is_in_rows(norm) else norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip(parameters: Sequence[nn.Parameter], limit: float, norm: Tensor) -> None:
    """Scale gradients down, if their norm is above a limit."""
    for group in _by_kind(parameters):
        nn.utils.clip_grads_with_norm_(group, limit, norm)


def _by_kind(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters that are sharded, and the others, which torch does not mix."""
    groups: list[list[nn.Parameter]] = [[], []]
    for parameter in parameters:
        groups[is_in_rows(parameter)].append(parameter)
    return [group for group in groups if group]
