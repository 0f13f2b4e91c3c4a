"""Muon for the matrices of encoders and fusion, AdamW for everything else."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import nn

from renaissance import Optimizer, fraction, option, positive
from renaissance.builtin.optimizers.validators import fractions

# As torch.optim types its groups: a tensor list, numbers and strings side by side.
ParameterGroup: TypeAlias = dict[str, Any]


class Muon(Optimizer):
    """Muon (Jordan et al., 2024) for matrices, AdamW for embeddings, heads, norms and biases.

    Updates are scaled as in Liu et al., "Muon is Scalable for LLM Training", 2025, so that the same
    learning rate and weight decay work as for AdamW.
    """

    states_per_parameter = 2

    @attrs.frozen
    class Options:
        """Options of `muon`."""

        momentum: float = option(0.95, help="Muon's momentum.", validator=fraction)
        betas: tuple[float, float] = option(
            (0.9, 0.98), help="AdamW's decay rates of the two moments.", validator=fractions
        )
        eps: float = option(
            1e-8,
            help="AdamW's epsilon, added to the square root of the second moment.",
            validator=positive,
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def make(self, groups: Sequence[ParameterGroup], learning_rate: float) -> torch.optim.Optimizer:
        """Return one optimizer made of `torch.optim.Muon` and `torch.optim.AdamW`."""
        matrices = [_part(group, for_muon=True) for group in groups]
        others = [_part(group, for_muon=False) for group in groups]
        parts: list[torch.optim.Optimizer] = []
        if any(group["params"] for group in matrices):
            parts.append(
                torch.optim.Muon(
                    [group for group in matrices if group["params"]],
                    lr=learning_rate,
                    momentum=self.options.momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if any(group["params"] for group in others):
            parts.append(
                torch.optim.AdamW(
                    [group for group in others if group["params"]],
                    lr=learning_rate,
                    betas=self.options.betas,
                    eps=self.options.eps,
                    fused=True,
                )
            )
        return MuonWithAdamW(parts)


class MuonWithAdamW(torch.optim.Optimizer):
    """Optimizers that step together, with a common state and list of groups.

    To the engine and to checkpoints it is a single optimizer.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step all parts."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss


def _takes_muon(group: ParameterGroup, index: int) -> bool:
    parameter: nn.Parameter = group["params"][index]
    return parameter.ndim == 2 and group["role"] != "head" and not group["is_embedding"][index]


def _part(group: ParameterGroup, for_muon: bool) -> ParameterGroup:
    """Return a group with only its parameters for Muon, or only the others."""
    indices = range(len(group["params"]))
    chosen = [index for index in indices if _takes_muon(group, index) == for_muon]
    return {
        **group,
        "params": [group["params"][index] for index in chosen],
        "is_embedding": [group["is_embedding"][index] for index in chosen],
    }
