"""Estimates the cost of a run on the meta device, which computes shapes but no values.

Attention is counted as fused kernels compute it, without storing its probabilities. (On a CPU,
attention with dropout has no such kernel and takes more.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeAlias, TypeVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import RunParts

# Autocast adds a half-precision copy of the parameters, and halves only part of what is saved for
# backward: norms and residuals stay in full precision. Both factors are relative to fp32.
HALF_PARAMETERS, HALF_ACTIVATIONS = 1.5, 0.6
# The methods by which the network calls its parts.
PART_METHODS = (
    "encode_text",
    "encode_packed",
    "encode_image",
    "encode_joint",
    "fuse",
    "fuse_rows",
    "similarity",
    "forward",
)

P = ParamSpec("P")
T = TypeVar("T")
TorchFunction: TypeAlias = Callable[..., object]


@attrs.frozen
class PartSize:
    """Number of parameters of one part of the network."""

    name: str
    num_parameters: int
    num_trainable: int


@attrs.frozen
class Memory:
    """Memory of one rank, in bytes, by what it holds.

    Attributes:
        parameters: The parameters, and their average if one is kept.
        gradients: Their gradients.
        optimizer: The optimizer's state.
        activations: What a micro-batch keeps for the backward pass.
        evaluation: What an evaluation takes, if that may be more than a step.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    evaluation: int = 0

    @property
    def step(self) -> int:
        """What a step takes."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def total(self) -> int:
        """The most that it takes at once."""
        return max(self.step, self.evaluation)


@attrs.frozen
class Estimate:
    """The cost of one micro-batch.

    Attributes:
        flops: Floating-point operations of a forward pass per sample, by part of the network; a
            backward pass takes about twice as many.
        memory: Memory of one rank.
    """

    flops: Mapping[str, int]
    memory: Memory


def part_sizes(network: MultiObjective) -> list[PartSize]:
    """Return the sizes of the model's parts and of each objective."""
    return [
        PartSize(
            name,
            sum(p.numel() for p in part.parameters()),
            sum(p.numel() for p in part.parameters() if p.requires_grad),
        )
        for name, part in _parts(network).items()
    ]


def estimate(parts: RunParts, batch: MicroBatch, states_per_parameter: int) -> Estimate:
    """Run one micro-batch forward on the meta device, and count operations and saved tensors.

    Args:
        parts: The parts of the run, built under `torch.device("meta")`.
        batch: Real samples: a whole micro-batch, or fewer.
        states_per_parameter: Values that the optimizer keeps for each trained parameter.
    """
    network = parts.network.train()
    num_samples = len(batch.indices)
    with _FusedAttention(), _flops_by_part(network) as flops:
        saved_bytes = _saved_bytes(network, batch)
    num_parameters = sum(p.numel() for p in network.parameters())
    num_trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    half = parts.spec.train.precision != "fp32"
    activations = saved_bytes * parts.plan.micro_batch_size / num_samples
    averages = [] if network.average is None else network.average.buffers()
    memory = Memory(
        parameters=int(4 * num_parameters * (HALF_PARAMETERS if half else 1))
        + sum(average.nbytes for average in averages),
        gradients=4 * num_trainable,
        optimizer=4 * num_trainable * states_per_parameter,
        activations=int(activations * (HALF_ACTIVATIONS if half else 1)),
    )
    return Estimate({name: count // num_samples for name, count in flops.items()}, memory)


def training_flops(network: MultiObjective, flops: Mapping[str, int]) -> int:
    """Return the operations of a forward and a backward pass, per sample, nothing recomputed.

    Args:
        network: The network.
        flops: Those of a forward pass, by part of the network.
    """
    return sum(flops[name] * _num_passes(part) for name, part in _parts(network).items())


def recomputed_flops(parts: RunParts, flops: Mapping[str, int]) -> int:
    """Return the operations that `train.gradient_checkpointing` adds to these, per sample."""
    share = {"none": 0.0, "half": 0.5, "all": 1.0}[parts.spec.train.gradient_checkpointing]
    recomputing = {
        name: part
        for name, part in _parts(parts.network).items()
        if isinstance(part, Encoder | Fusion)
    }
    # What is frozen keeps no activations in the first place.
    return int(share * sum(flops[n] for n, part in recomputing.items() if _num_passes(part) == 3))


def _num_passes(part: nn.Module) -> int:
    """Return how many forward passes a forward and a backward pass of a part are worth."""
    if any(parameter.requires_grad for parameter in part.parameters()):
        return 3
    # Below a frozen encoder nothing is trained, so that no gradient passes through it.
    return 1 if isinstance(part, Encoder) else 2


def _parts(network: MultiObjective) -> dict[str, nn.Module]:
    objectives = {f"objective {name}": module for name, module in network.objectives.items()}
    return {**network.model.parts(), **objectives}


def _saved_bytes(network: MultiObjective, batch: MicroBatch) -> int:
    """Run forward; return the size of what is saved for backward, without the parameters.

    Of layers that are recomputed, that is their input. What one of them computes again is not
    counted, but all gradients are: they are not all there before the last layer is recomputed.
    """
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    # By storage: views of one tensor, and tensors saved twice, take memory once.
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(batch.to(torch.device("meta")))
    # Until here the graph keeps the saved tensors alive, so no two of them share an address.
    del outputs
    return sum(sizes.values())


@contextmanager
def _flops_by_part(network: MultiObjective) -> Iterator[dict[str, int]]:
    """Count the operations of each part of the network that run inside this context."""
    flops = dict.fromkeys(_parts(network), 0)
    with FlopCounterMode(display=False) as counter:

        def unattributed() -> int:
            total: int = counter.get_total_flops()
            return total - sum(flops.values())

        def counted(name: str, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            before = unattributed()
            result = method(*args, **kwargs)
            # What methods of other parts did, called by this one, is attributed already.
            flops[name] += unattributed() - before
            return result

        # Forward hooks would see only `forward`.
        wrapped = [
            (name, part, method)
            for name, part in _parts(network).items()
            for method in PART_METHODS
            if hasattr(part, method)
        ]
        for name, part, method in wrapped:
            setattr(part, method, partial(counted, name, getattr(part, method)))
        try:
            yield flops
        finally:
            for _, part, method in wrapped:
                delattr(part, method)


class _FusedAttention(TorchFunctionMode):
    """Calls the fused kernel for attention, which PyTorch does not choose on the meta device."""

    def __torch_function__(
        self,
        func: TorchFunction,
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        attention: TorchFunction = _attention
        call = attention if func is F.scaled_dot_product_attention else func
        return call(*args, **kwargs or {})


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    # The kernel expects an additive mask, one value per (query, key) pair.
    bias = None if attn_mask is None else torch.zeros_like(attn_mask, dtype=query.dtype)
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]
    return attended
