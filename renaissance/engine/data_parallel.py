"""DistributedDataParallel around the network, for every supported version of torch."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrap(network: nn.Module, world_size: int) -> nn.Module:
    """Return the network, wrapped where there is more than one rank."""
    if world_size == 1:
        return network
    # Only batch norm has buffers that change, and they must be the same on every rank.
    has_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    # torch 2.13 renamed the option; 2.11 knows the old name only.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: has_statistics}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **options)


def exchange(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Return a context in which backward exchanges gradients only for the last micro-batch."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        context: AbstractContextManager[None] = module.no_sync()
        return context
    return nullcontext()
