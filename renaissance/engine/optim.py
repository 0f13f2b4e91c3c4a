"""The optimizer, with learning rate factors by module role, and the schedule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from renaissance.contracts.encoder import Encoder
from renaissance.contracts.tokens import Role
from renaissance.engine.multi_objective import MultiObjective
from renaissance.errors import SpecError
from renaissance.model.depth import NORM, UnknownDepthError, depths_of
from renaissance.spec.choice import OptimizerChoice
from renaissance.spec.sections import ScheduleSection


def parameter_roles(network: MultiObjective) -> dict[str, Role]:
    """Return the role of every parameter, by its name in the network.

    Roles are declared by the model; objectives' parameters are heads.
    """
    role_of: dict[int, Role] = {}
    for role, modules in network.model.roles().items():
        for module in modules:
            role_of.update({id(parameter): role for parameter in module.parameters()})
    for parameter in network.objectives.parameters():
        role_of[id(parameter)] = "head"
    roles = {}
    for name, parameter in network.named_parameters():
        assert id(parameter) in role_of, f"{name} has no role; the model's roles() must name it"
        roles[name] = role_of[id(parameter)]
    return roles


def make_optimizer(network: MultiObjective, choice: OptimizerChoice) -> torch.optim.Optimizer:
    """Make the optimizer: one group per role, kind of decay and, with layer decay, depth.

    Each group carries "name" and "multiplier"; the learning rate is set before every step.
    """
    optimizer = choice.build(parameter_groups(network, choice))
    # torch's fused SGD cannot update rows, but its other form can.
    if network.is_sharded and isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=True)
        vars(optimizer)["_step_supports_amp_scaling"] = False
    return optimizer


def parameter_groups(network: MultiObjective, choice: OptimizerChoice) -> list[dict[str, Any]]:
    """Return the groups of trained parameters, as `Optimizer.make` takes them.

    Raises:
        SpecError: If there are none, or the learning rate of each is 0, or `layer_decay` does not
            know the depth of an encoder's layers.
    """
    roles = parameter_roles(network)
    layer_factors = _layer_factors(network, choice.layer_decay)
    embeddings = {
        id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)
    }
    undecayed = {id(parameter) for parameter in undecayed_parameters(network)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = id(parameter) not in undecayed
        role = roles[name]
        factor = layer_factors.get(id(parameter), 1.0)
        group_name = role if decays else f"{role}-no-decay"
        if factor != 1:
            group_name += f"-{factor:.6g}"
        group = groups.setdefault(
            group_name,
            {
                "params": [],
                "is_embedding": [],
                "name": group_name,
                "role": role,
                "multiplier": getattr(choice.multipliers, role) * factor,
                "weight_decay": choice.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["is_embedding"].append(id(parameter) in embeddings)
    if not groups:
        raise SpecError("model: every parameter is frozen; nothing is left to train")
    if not any(group["multiplier"] for group in groups.values()):
        trained = ", ".join(sorted({group["role"] for group in groups.values()}))
        raise SpecError(
            f"optimizer.multipliers: 0 for all that is not frozen ({trained}); nothing is left to "
            "train"
        )
    return [groups[name] for name in sorted(groups)]


def _layer_factors(network: MultiObjective, layer_decay: float) -> dict[int, float]:
    """Return the learning rate factor of encoders' parameters by id: smaller in lower layers.

    As in BEiT (Bao et al., ICLR 2022), a depth's factor is the decay to the power of the number of
    depths above it.
    """
    factors: dict[int, float] = {}
    if layer_decay == 1:
        return factors
    for name, part in network.model.parts().items():
        if not isinstance(part, Encoder) or not any(p.requires_grad for p in part.parameters()):
            continue
        try:
            depths, deepest = depths_of(part)
        except UnknownDepthError as error:
            raise SpecError(
                f"optimizer.layer_decay: model.{name}: {error}; set layer_decay = 1, freeze the "
                "encoder, or choose another one"
            ) from error
        factors |= {key: layer_decay ** (deepest - depth) for key, depth in depths.items()}
    return factors


def undecayed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters without weight decay: biases, norms, scales, and all of one dimension.

    Most of them have one dimension. By their names and types: tables of relative position biases,
    attention biases, norms that keep the dimensions of an image, and scales of layers or logits.
    """
    found = []
    for path, module in network.named_modules():
        is_norm = NORM.search(type(module).__name__) is not None
        for name, parameter in module.named_parameters(recurse=False):
            # A table of biases may be an embedding, whose own parameter is called "weight".
            is_bias = "bias" in name or "bias" in path.rpartition(".")[2]
            if parameter.ndim <= 1 or is_bias or is_norm or "scale" in name:
                found.append(parameter)
    return found


def learning_rate(step: int, total_steps: int, peak: float, section: ScheduleSection) -> float:
    """Return the learning rate of a step, counted from 0: a function of the step alone."""
    warmup = warmup_steps(total_steps, section)
    if step < warmup:
        return peak * (step + 1) / warmup
    if section.decay == "constant":
        return peak
    # From 1 at the end of the warm-up down to 0 at the last step.
    remaining = 1 - (step - warmup) / max(1, total_steps - warmup)
    shape = (
        remaining**section.power
        if section.decay == "polynomial"
        else 0.5 * (1 - math.cos(math.pi * remaining))
    )
    return section.end_learning_rate + (peak - section.end_learning_rate) * shape


def warmup_steps(total_steps: int, section: ScheduleSection) -> int:
    """Return the length of the warm-up in steps."""
    warmup = section.warmup_steps
    return round(warmup * total_steps) if isinstance(warmup, float) else warmup


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: float) -> Mapping[str, float]:
    """Set each group's rate, and return the highest rate of each role."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
        rates[group["role"]] = max(group["lr"], rates.get(group["role"], 0.0))
    return rates


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that receive gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
