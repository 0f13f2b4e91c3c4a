"""Optimizers: the built-in ones pass; for every promise, one that breaks it fails in words."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch

from renaissance import Optimizer
from renaissance.builtin.optimizers.adam import Adam, AdamW
from renaissance.builtin.optimizers.muon import Muon
from renaissance.builtin.optimizers.sgd import SGD
from renaissance.testing import ContractError, check_optimizer


@pytest.mark.parametrize("component", [AdamW, Adam, SGD, Muon])
def test_built_in_optimizers_pass(component: type[Optimizer]) -> None:
    check_optimizer(component)


class Sound(Optimizer):
    """Plain gradient descent."""

    states_per_parameter = 0

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, options: Options) -> None: ...

    def make(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(groups), lr=learning_rate)


class MakesNothing(Sound):
    """Returns no optimizer."""

    def make(self, groups: Any, learning_rate: float) -> Any:
        return None


class LosesGroups(Sound):
    """Puts all parameters into one group."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for group in groups for p in group["params"]], lr=learning_rate)


class LosesParameters(Sound):
    """Leaves the head out."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        kept = [group for group in groups if group["role"] != "head"]
        return torch.optim.SGD(kept, lr=learning_rate)


class Climbing(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=10 * group["lr"])


class Climbs(Sound):
    """Goes up the gradient."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        return Climbing(list(groups), lr=learning_rate)


class Stubborn(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-0.01)


class IgnoresTheRate(Sound):
    """Ignores the learning rate of the groups."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        return Stubborn(list(groups), lr=learning_rate)


class NeverDecays(Sound):
    """Ignores weight decay."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [{**group, "weight_decay": 0.0} for group in groups], lr=learning_rate
        )


class Forgetful(torch.optim.SGD):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-group["lr"] / self.num_steps)


class KeepsStateElsewhere(Sound):
    """Counts its steps outside of its state."""

    def make(self, groups: Any, learning_rate: float) -> torch.optim.Optimizer:
        return Forgetful([{**group, "weight_decay": 0.0} for group in groups], lr=learning_rate)


def test_the_sound_one_passes() -> None:
    check_optimizer(Sound)


@pytest.mark.parametrize(
    ("component", "text"),
    [
        (MakesNothing, "making: make returned NoneType, expected a torch.optim.Optimizer"),
        (LosesGroups, "making: a group lacks name, role, multiplier, is_embedding; keep the keys"),
        (LosesParameters, "making: its groups hold 3 parameters, expected each of the 5"),
        (Climbs, "steps: after 20 steps on three small layers the loss is "),
        (IgnoresTheRate, "learning rate: with 'lr' set to 0 in the groups of the encoder, a step"),
        (
            NeverDecays,
            "weight decay: a weight decay of 0.5 in the groups that decay affected nothing",
        ),
        (
            KeepsStateElsewhere,
            "checkpoint: after resuming from its saved state, the next step gives",
        ),
    ],
)
def test_a_broken_promise_is_named(component: type[Optimizer], text: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_optimizer(component)
    assert text in str(caught.value)
