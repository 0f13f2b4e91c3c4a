"""Broken heads: the kit says in words which promise is broken."""

import random
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.sound_components import (
    NoOptions,
    SoundHead,
    after_init,
    breaking,
    check,
)
from torch import Tensor, nn

from renaissance import (
    Head,
    option,
)
from renaissance.testing import (
    ContractError,
)


def forward_of(function: Callable[[Any, Tensor], Any]) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: Tensor) -> Any:
        return function(self, hidden_states)

    return forward


def unused(self: Any) -> None:
    self.unused = nn.Linear(2, 2)


def numpy_weights(self: Any) -> None:
    with torch.no_grad():
        self.linear.weight.copy_(torch.from_numpy(np.random.rand(*self.linear.weight.shape)))


def lost_state(self: Any) -> None:
    self.scale = torch.rand(())


class HalfHead(SoundHead):
    """Adds up where types must be equal."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        zeros = torch.zeros(*hidden_states.shape[:-1], 5)
        rows = torch.arange(len(hidden_states))
        return zeros.index_add_(0, rows, self.linear(hidden_states))


class OverflowHead(SoundHead):
    """Overflows where rounding is coarse."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        logits = self.linear(hidden_states)
        return logits if logits.dtype == torch.float32 else logits * torch.inf


class CoarseHead(SoundHead):
    """A small difference of large numbers."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return (self.linear(hidden_states) + 1000) - 1000


class RankHead(SoundHead):
    """Goes backward another way at each call."""

    calls = 0

    def forward(self, hidden_states: Tensor) -> Tensor:
        RankHead.calls += 1
        logits = self.linear(hidden_states)
        # The same number, another gradient.
        return logits + (logits - logits.detach()) * RankHead.calls


class LazyHead(Head):
    """Makes its weights when it is first used."""

    Options = NoOptions

    def __init__(self, options: Any, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(output_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states)


HEADS = [
    ({"__doc__": ""}, "declaration: .* Broken has no docstring"),
    ({"Options": attrs.make_class("O", {"size": attrs.field(default=1)}, frozen=True)}, "no help"),
    (
        {"Options": attrs.make_class("O", {"size": option(help="A size.")}, frozen=True)},
        "options: it raised TypeError: .* missing 1 required",
    ),
    ({"__init__": lambda self, options: None}, "__init__.* does not take the arguments"),
    ({"forward": forward_of(lambda s, x: s.linear(x).sum(0))}, "shapes: forward returned .* any"),
    ({"forward": forward_of(lambda s, x: s.linear(x).argmax(-1))}, r"shapes: .* \(2, 3\) int64"),
    (
        {"forward": forward_of(lambda s, x: s.linear(x - x.mean(-2, keepdim=True)))},
        "rows: the logits of a vector change",
    ),
    ({"forward": forward_of(lambda s, x: x.nothing)}, "shapes: it raised AttributeError"),
    (
        {"__init__": after_init(unused)},
        "gradients: no gradient reaches unused.weight, unused.bias",
    ),
    (
        {"__init__": after_init(numpy_weights)},
        "randomness: made twice .* differs in linear.weight",
    ),
    (
        {"forward": forward_of(lambda s, x: F.dropout(s.linear(x)))},
        "in evaluation mode its result",
    ),
    (
        {"forward": forward_of(lambda s, x: s.linear(x) * (random.random() if s.training else 1))},
        "in training mode its result depends on Python's",
    ),
    (
        {
            "__init__": after_init(lost_state),
            "forward": forward_of(lambda s, x: s.linear(x) * s.scale),
        },
        "checkpoint: saved after a step and loaded into a new one, it gives another result",
    ),
]


@pytest.mark.parametrize(("attributes", "text"), HEADS)
def test_broken_heads(attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(breaking(SoundHead, **attributes))


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (HalfHead, "bf16: it raised RuntimeError"),
        (OverflowHead, "under bf16 autocast its result is not finite"),
        (CoarseHead, "under bf16 autocast its result is off by"),
        (RankHead, "two ranks: under DistributedDataParallel the gradient of linear.weight"),
        (LazyHead, "two ranks: .*uninitialized"),
    ],
)
def test_heads_that_fail_in_precision_or_on_ranks(head: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(head)


def test_all_breaches_are_reported_at_once() -> None:
    broken = breaking(
        SoundHead,
        __init__=after_init(unused),
        forward=forward_of(lambda s, x: F.dropout(s.linear(x))),
    )
    with pytest.raises(ContractError) as caught:
        check(broken)
    lines = str(caught.value).splitlines()
    assert lines[0] == "head Broken breaks its contract:"
    assert {line.split(":")[0] for line in lines[1:]} >= {"- randomness", "- gradients"}


def test_the_global_random_state_is_left_as_it_was() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    check(SoundHead)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == before
