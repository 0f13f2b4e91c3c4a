"""Broken poolers: the kit says in words which promise is broken."""

from collections.abc import Callable
from typing import Any

import pytest
from support.sound_components import (
    SoundPooler,
    after_init,
    breaking,
    check,
)

from renaissance import (
    Tokens,
)
from renaissance.testing import (
    ContractError,
)


def pooler_of(function: Callable[[Any, Tokens], Any]) -> type:
    def forward(self: Any, text: Tokens, image: Any) -> Any:
        return function(self, text)

    return breaking(SoundPooler, forward=forward)


POOLERS = [
    (
        breaking(SoundPooler, __init__=after_init(lambda s: setattr(s, "output_size", None))),
        "output",
    ),
    (breaking(SoundPooler, text_use="last"), "text_use is 'last', expected one of all, first"),
    (breaking(SoundPooler, image_use="all"), "shapes: it raised AssertionError"),
    (pooler_of(lambda s, t: t.hidden_states), r"expected floating-point \(3, 16\)"),
    (pooler_of(lambda s, t: t.hidden_states.mean(1)), "padding: other states in the padding"),
    (
        pooler_of(lambda s, t: t.hidden_states[:, 0] * t.attention_mask.shape[1]),
        "a pair's vector changes when it is batched",
    ),
]


@pytest.mark.parametrize(("pooler", "text"), POOLERS)
def test_broken_poolers(pooler: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(pooler)
