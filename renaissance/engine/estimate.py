"""What a run will take, estimated on the meta device: shapes are computed, numbers are not."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from renaissance.data.collate import MicroBatch
from renaissance.engine.setup import Setup
from renaissance.engine.task import Task

# States that an optimizer keeps for each trained number.
STATES = {"adamw": 2, "adam": 2, "sgd": 1}
PART_METHODS = ("encode_text", "encode_image", "encode_joint", "fuse", "forward")


@attrs.frozen
class PartSize:
    """Parameters of one part of the task."""

    name: str
    num_parameters: int
    num_trainable: int


@attrs.frozen
class Memory:
    """Memory a rank, bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.activations


@attrs.frozen
class Estimate:
    """What one micro-batch takes.

    Attributes:
        flops: Forward floating-point operations a sample, by part; a backward takes about twice.
        memory: Memory a rank.
    """

    flops: Mapping[str, int]
    memory: Memory


def part_sizes(task: Task) -> list[PartSize]:
    """Return the sizes of the model's parts and of each objective."""
    parts = dict(task.model.parts())
    parts |= {f"objective {name}": module for name, module in task.objectives.items()}
    return [
        PartSize(
            name,
            sum(p.numel() for p in part.parameters()),
            sum(p.numel() for p in part.parameters() if p.requires_grad),
        )
        for name, part in parts.items()
    ]


def estimate(setup: Setup, batch: MicroBatch) -> Estimate:
    """Run one micro-batch forward on the meta device, counting operations and what is saved.

    Args:
        setup: Built under `torch.device("meta")`.
        batch: A micro-batch of real samples.
    """
    task = setup.task.train()
    num_samples = len(batch.indices)
    saved: dict[int, int] = {}
    parameters = {id(p.untyped_storage()._cdata) for p in task.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage._cdata) not in parameters:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        flops = _count_by_part(task, counter)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = task(batch.to(torch.device("meta")))
        # Saved tensors live as long as the graph does.
        del outputs
    trainable = sum(p.numel() for p in task.parameters() if p.requires_grad)
    # Under autocast most saved tensors have half the bytes.
    half = setup.spec.train.precision != "fp32"
    scale = setup.plan.micro_batch_size / num_samples * (0.5 if half else 1.0)
    memory = Memory(
        weights=4 * sum(p.numel() for p in task.parameters()),
        gradients=4 * trainable,
        optimizer=4 * trainable * STATES[setup.spec.optimizer.type],
        activations=int(sum(saved.values()) * scale),
    )
    return Estimate({name: count // num_samples for name, count in flops.items()}, memory)


def _count_by_part(task: Task, counter: FlopCounterMode) -> Mapping[str, int]:
    """Make each part add what it costs to the returned table."""
    flops: dict[str, int] = defaultdict(int)
    inside = [False]

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if inside[0]:
                return function(*arguments, **options)
            inside[0] = True
            before = counter.get_total_flops()
            result = function(*arguments, **options)
            flops[name] += counter.get_total_flops() - before
            inside[0] = False
            return result

        return call

    parts: dict[str, nn.Module] = dict(task.model.parts())
    parts |= {f"objective {name}": module for name, module in task.objectives.items()}
    for name, part in parts.items():
        for method in PART_METHODS:
            if hasattr(part, method):
                setattr(part, method, counted(name, getattr(part, method)))
    return flops
