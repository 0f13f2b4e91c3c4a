"""What `train.parallel = "auto"` stands for, by the estimated memory of each choice."""

import attrs
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.distributed import choose_device
from renaissance.engine.estimate import HALF_PARAMETERS, Memory
from renaissance.engine.gathering import units_of
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import RunParts
from renaissance.engine.starting import check_memory, estimated_memory
from renaissance.errors import SpecError
from renaissance.spec.sections import Parallel, RunSpec


@attrs.frozen
class Choice:
    """How ranks share the network, and why.

    Attributes:
        parallel: What `train.parallel` is or stands for.
        memory: Memory of one rank with that.
        reason: Why, in words.
    """

    parallel: Parallel
    memory: Memory
    reason: str


def choose_parallel(parts: RunParts, memory: Memory, num_shards: int) -> Choice:
    """Choose by estimated memory: fsdp only where ddp does not fit and fsdp does.

    Args:
        parts: The parts of the run; their parameters need no values.
        memory: Memory of one rank with ddp.
        num_shards: Ranks that a parameter is divided among: those of a node.
    """
    asked = parts.spec.train.parallel
    if num_shards == 1:
        return Choice("fsdp" if asked == "fsdp" else "ddp", memory, "one rank has everything")
    sharded = sharded_memory(parts, memory, num_shards)
    if asked != "auto":
        return Choice(asked, sharded if asked == "fsdp" else memory, "the run spec says so")
    available = memory_of_device(parts.spec)
    if available is None:
        return Choice("ddp", memory, "there is no CUDA device here")
    needs = f"ddp takes about {_gib(memory.total)} of the {_gib(available)} of a GPU"
    if memory.total <= available:
        return Choice("ddp", memory, needs)
    needs = f"{needs}, fsdp about {_gib(sharded.total)}"
    if sharded.total > available:
        return Choice("ddp", memory, f"{needs}; neither fits")
    try:
        check_sharding(parts)
    except SpecError as error:
        return Choice("ddp", memory, f"{needs}, but {error}")
    return Choice("fsdp", sharded, needs)


def settled_parallel(parts: RunParts, probe: MicroBatch, num_shards: int) -> Parallel:
    """Return what `train.parallel` stands for, and check that a micro-batch can fit.

    Args:
        parts: The parts of the run, with their parameters.
        probe: A few training samples.
        num_shards: Ranks that a parameter is divided among.

    Raises:
        SpecError: If it cannot fit, by far.
    """
    memory = estimated_memory(parts, probe)
    if memory is None:
        return "fsdp" if parts.spec.train.parallel == "fsdp" else "ddp"
    choice = choose_parallel(parts, memory, num_shards)
    check_memory(parts.spec, choice.memory)
    return choice.parallel


def with_parallel(parts: RunParts, parallel: str) -> RunParts:
    """Return the parts of a run whose spec says how ranks share the network."""
    chosen: Parallel = "fsdp" if parallel == "fsdp" else "ddp"
    train = attrs.evolve(parts.spec.train, parallel=chosen)
    return attrs.evolve(parts, spec=attrs.evolve(parts.spec, train=train))


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
    # The first version that can forget the order of an evaluation.
    if torch.__version__ < "2.13":
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


def sharded_memory(parts: RunParts, whole: Memory, num_shards: int) -> Memory:
    """Return the memory of one rank of a sharded network.

    Of parameters, it has its rows; besides, all that is in no layer, and two layers, since the next
    one is gathered while one computes. In an evaluation it has all parameters.

    Args:
        parts: The parts of the run.
        whole: Memory of one rank that has the whole network.
        num_shards: Ranks that a parameter is divided among.
    """
    network = parts.network
    factor = 4 * (HALF_PARAMETERS if parts.spec.train.precision != "fp32" else 1)
    all_units = [
        unit for part in network.model.parts().values() for unit in units_of(network, part)
    ]
    sizes = [sum(p.numel() for p in unit.parameters()) for unit in all_units]
    trained = [sum(p.numel() for p in u.parameters() if p.requires_grad) for u in all_units]
    total, total_trained = _count(network), _count(network, trained=True)
    gathered = total - sum(sizes) + sum(sorted(sizes)[-2:])
    gathered_gradients = total_trained - sum(trained) + max(trained, default=0)
    return Memory(
        parameters=-(-whole.parameters // num_shards) + int(factor * gathered),
        gradients=-(-whole.gradients // num_shards) + 4 * gathered_gradients,
        optimizer=-(-whole.optimizer // num_shards),
        activations=whole.activations,
        evaluation=-(-(whole.parameters + whole.optimizer) // num_shards) + int(factor * total),
    )


def memory_of_device(spec: RunSpec) -> int | None:
    """Return the bytes of a GPU of this machine; None if the run would not use one."""
    device = choose_device(spec.train.device, 0, 0)
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def _count(network: MultiObjective, trained: bool = False) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
