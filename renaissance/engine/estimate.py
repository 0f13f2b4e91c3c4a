"""What a run will take, estimated on the meta device: shapes are computed, numbers are not.

Attention is counted as fused kernels compute it, without keeping its probabilities. (On CPU,
attention with dropout has no such kernel and takes more.)
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from renaissance.data.collate import MicroBatch
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import RunParts

# States that an optimizer keeps for each trained number.
STATES = {"adamw": 2, "adam": 2, "sgd": 1}
# Autocast keeps a half copy of the weights, and of what is saved about so much: norms and
# residuals stay in full precision.
HALF_WEIGHTS, HALF_ACTIVATIONS = 1.5, 0.6
PART_METHODS = ("encode_text", "encode_image", "encode_joint", "fuse", "forward")


@attrs.frozen
class PartSize:
    """Parameters of one part of the network."""

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


def part_sizes(network: MultiObjective) -> list[PartSize]:
    """Return the sizes of the model's parts and of each objective."""
    parts = dict(network.model.parts())
    parts |= {f"objective {name}": module for name, module in network.objectives.items()}
    return [
        PartSize(
            name,
            sum(p.numel() for p in part.parameters()),
            sum(p.numel() for p in part.parameters() if p.requires_grad),
        )
        for name, part in parts.items()
    ]


def estimate(parts: RunParts, batch: MicroBatch) -> Estimate:
    """Run one micro-batch forward on the meta device, counting operations and what is saved.

    Args:
        parts: Built under `torch.device("meta")`.
        batch: Real samples, as many as a micro-batch holds or fewer.
    """
    network = parts.network.train()
    num_samples = len(batch.indices)
    # Bytes by storage: views of one tensor, and tensors saved twice, take memory once.
    saved: dict[int, int] = {}
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, _FusedAttention():
        flops = _count_by_part(network, counter)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(batch.to(torch.device("meta")))
        # Saved tensors live as long as the graph does.
        del outputs
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    half = parts.spec.train.precision != "fp32"
    weights = 4 * sum(p.numel() for p in network.parameters())
    activations = sum(saved.values()) * parts.plan.micro_batch_size / num_samples
    memory = Memory(
        weights=int(weights * (HALF_WEIGHTS if half else 1)),
        gradients=4 * trainable,
        optimizer=4 * trainable * STATES[parts.spec.optimizer.type],
        activations=int(activations * (HALF_ACTIVATIONS if half else 1)),
    )
    return Estimate({name: count // num_samples for name, count in flops.items()}, memory)


class _FusedAttention(TorchFunctionMode):
    """Calls the fused kernel for attention, which PyTorch does not choose on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


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
    # The kernel takes the mask as numbers to add, one a query and key.
    bias = None if attn_mask is None else torch.zeros_like(attn_mask, dtype=query.dtype)
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]
    return attended


def _count_by_part(network: MultiObjective, counter: FlopCounterMode) -> Mapping[str, int]:
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

    parts: dict[str, nn.Module] = dict(network.model.parts())
    parts |= {f"objective {name}": module for name, module in network.objectives.items()}
    for name, part in parts.items():
        for method in PART_METHODS:
            if hasattr(part, method):
                setattr(part, method, counted(name, getattr(part, method)))
    return flops
