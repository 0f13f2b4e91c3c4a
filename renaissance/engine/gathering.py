"""What a sharded network gathers, and when.

torch's FSDP takes a second to import, and is imported only where a network is sharded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.contracts.tokens import autocast_kept
from renaissance.engine.multi_objective import MultiObjective
from renaissance.errors import SpecError
from renaissance.model.depth import UnknownDepthError, layers_of


def units_of(network: MultiObjective, part: nn.Module) -> list[nn.Module]:
    """Return the layers of a part of the model that are gathered by themselves.

    The last layer of a fusion is not among them: it runs once for each series of pairs of which the
    same is read, which is not equally often on all ranks.
    """
    if not isinstance(part, Encoder | Fusion):
        return []
    try:
        layers = layers_of(part)
    except UnknownDepthError:
        return []
    if isinstance(part, Fusion):
        layers = layers[:-1]
    return [layer for layer in layers if not _shares(layer, network)]


@contextmanager
def gathered(network: MultiObjective) -> Iterator[None]:
    """Keep all parameters on every rank, if the network is sharded; every rank must call it.

    Inside, ranks need not compute equally often, but no gradients.
    """
    if not network.is_sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    root = cast(FSDPModule, network)
    root.set_reshard_after_forward(False)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
    try:
        # Layers may be gathered in bf16, and see to their own precision.
        with autocast_kept():
            yield
    finally:
        # It also forgets the order in which layers were gathered, of which backward makes use.
        root.reset_iter_state()
        root.set_reshard_after_forward(True)
        root.set_reshard_after_forward(False, recurse=False)


@contextmanager
def gathered_root(network: MultiObjective) -> Iterator[None]:
    """Keep what is in no layer on every rank, as inside `forward`; every rank must call it.

    Inside, the network's other methods may be called, without gradients, as often on each rank.
    """
    if not network.is_sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    root = cast(FSDPModule, network)
    root.unshard()
    try:
        yield
    finally:
        root.reset_iter_state()


@contextmanager
def layers_are_called() -> Iterator[None]:
    """Say what is wrong with a component whose layers are used in another way than by calling them.

    Raises:
        SpecError: If parameters were not gathered when they were needed.
    """
    try:
        yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        raise SpecError(
            "train.parallel: 'fsdp' gathers a layer when it is called, but a component "
            f"reads the parameters of one without calling it ({error}); use 'ddp'"
        ) from error


def _shares(layer: nn.Module, network: nn.Module) -> bool:
    """Return whether a layer has a parameter that is also used elsewhere."""

    def uses(module: nn.Module) -> list[int]:
        return [id(p) for _, p in module.named_parameters(remove_duplicate=False)]

    own, everywhere = uses(layer), uses(network)
    return any(own.count(parameter) != everywhere.count(parameter) for parameter in set(own))
