"""Fully sharded data parallelism: `train.parallel = "fsdp"`.

Each rank keeps its rows of every parameter, gradient and optimizer state. A layer's parameters are
gathered while it computes (Rajbhandari et al., "ZeRO", SC 2020; torch's `fully_shard`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.contracts.objective import ObjectiveOutput
from renaissance.contracts.tokens import autocast_kept
from renaissance.engine.bf16_copies import following_modules
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import RunParts
from renaissance.errors import SpecError
from renaissance.model.depth import UnknownDepthError, layers_of
from renaissance.spec.sections import TrainSection


def check_sharding(parts: RunParts) -> None:
    """Check that the network of a run can be sharded.

    Raises:
        SpecError: If this torch is too old, batch norms are trained, or the spec needs what goes
            only with whole networks.
    """
    spec, network = parts.spec, parts.network
    if spec.train.precision == "fp16" or spec.data.cache == "tokens":
        raise SpecError(
            "train.parallel: 'fsdp' needs another train.precision than 'fp16', and another "
            "data.cache than 'tokens'"
        )
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise SpecError(
            f"train.parallel: 'fsdp' needs torch 2.13 or later, and this is {torch.__version__}; "
            "install it, or use 'ddp'"
        )
    for name, part in network.model.parts().items():
        has_norms = any(isinstance(module, _BatchNorm) for module in part.modules())
        if has_norms and not network.model.is_frozen(part):
            raise SpecError(
                "train.parallel: 'fsdp' does not keep the statistics of batch norms equal on all "
                f"ranks, and model.{name} has some; freeze it, choose an encoder without, or use "
                "'ddp'"
            )


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
    if network.average is not None:
        decay, network.average = network.average.decay, None
        network.keep_average(decay)


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


def is_sharded(network: nn.Module) -> bool:
    """Return whether `shard` was called."""
    return isinstance(network, FSDPModule)


@contextmanager
def gathered(network: MultiObjective) -> Iterator[None]:
    """Keep all parameters on every rank, if the network is sharded; every rank must call it.

    Inside, ranks need not compute equally often, but no gradients.
    """
    if not isinstance(network, FSDPModule):
        yield
        return
    network.set_reshard_after_forward(False)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
    try:
        # Layers may be gathered in bf16, and see to their own precision.
        with autocast_kept():
            yield
    finally:
        _forget_forward(network)
        network.set_reshard_after_forward(True)
        network.set_reshard_after_forward(False, recurse=False)


@contextmanager
def gathered_root(network: MultiObjective) -> Iterator[None]:
    """Keep what is in no layer on every rank, as inside `forward`; every rank must call it.

    Inside, the network's other methods may be called, without gradients, as often on each rank.
    """
    if not isinstance(network, FSDPModule):
        yield
        return
    network.unshard()
    try:
        yield
    finally:
        _forget_forward(network)


def _forget_forward(network: FSDPModule) -> None:
    """Free what was gathered, and the order in which it was, of which backward gathers again."""
    network.reset_iter_state()


def fit_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer update rows: torch's fused SGD cannot, but its other form can."""
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=True)
        vars(optimizer)["_step_supports_amp_scaling"] = False


def _shares(layer: nn.Module, network: nn.Module) -> bool:
    """Return whether a layer has a parameter that is also used elsewhere."""

    def uses(module: nn.Module) -> list[int]:
        return [id(p) for _, p in module.named_parameters(remove_duplicate=False)]

    own, everywhere = uses(layer), uses(network)
    return any(own.count(parameter) != everywhere.count(parameter) for parameter in set(own))


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
