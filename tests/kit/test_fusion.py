"""Broken fusions: the kit says in words which promise is broken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sound_components import (
    SoundFusion,
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


class CountingFusion(SoundFusion):
    """Counts its calls."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        self.count += 1
        return super().forward(text, image)


def fusion_of(function: Callable[[Any, Tokens, Tokens], Any]) -> type:
    def forward(self: Any, text: Tokens, image: Tokens) -> Any:
        return function(self, text, image)

    return breaking(SoundFusion, forward=forward)


class WrongReads(SoundFusion):
    """Leaves out too much."""

    def fuse(self, text: Any, image: Any, reads: Any) -> Any:
        results = super().fuse(text, image, reads)
        if reads[0].image != "none":
            return results
        return [(Tokens(-t.hidden_states, t.attention_mask) if t else t, i) for t, i in results]


class EverythingRead(SoundFusion):
    """Returns what nobody reads."""

    def fuse(self, text: Any, image: Any, reads: Any) -> Any:
        return [self(text, image) for _ in reads]


class WrongRows(SoundFusion):
    """Pairs the texts with other images."""

    def fuse_rows(self, text: Any, image: Any, text_rows: Any, image_rows: Any, uses: Any) -> Any:
        return super().fuse_rows(text, image, text_rows, 1 - image_rows, uses)


class WrongRealTokens(SoundFusion):
    """Takes the index of each group of pairs for one of all pairs."""

    def fuse(self, text: Any, image: Any, uses: Any) -> Any:
        if uses[0].text_index is not None:
            index = torch.cat([use.text_index for use in uses])
            kept = torch.zeros(text.attention_mask.numel()).index_fill(0, index, 1.0)
            kept = kept.view(*text.attention_mask.shape, 1)
            text = text.with_states(text.hidden_states * kept)
        return super().fuse(text, image, uses)


class RandomWhenFrozen(SoundFusion):
    """Draws in evaluation mode."""

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        noise = torch.rand(()) if not self.linear.weight.requires_grad else 0.0
        fused = super().forward(text, image)
        return Tokens(fused[0].hidden_states + noise, fused[0].attention_mask), fused[1]


FUSIONS = [
    (
        breaking(SoundFusion, __init__=after_init(lambda s: setattr(s, "hidden_size", 0))),
        "hidden_s",
    ),
    (fusion_of(lambda s, t, i: [t, i]), "forward returned list, expected"),
    (fusion_of(lambda s, t, i: (i, t)), "hidden_states of|changed the mask of the text"),
    (
        fusion_of(lambda s, t, i: (Tokens(t.hidden_states[..., :3], t.attention_mask), i)),
        r"hidden_states of forward \(text\) are \(3, 9, 3\)",
    ),
    (
        fusion_of(
            lambda s, t, i: (
                Tokens(t.hidden_states + i.hidden_states.mean(1, True), t.attention_mask),
                i,
            )
        ),
        "padding: other states in the padding change the real text tokens",
    ),
    (
        fusion_of(
            lambda s, t, i: (
                t,
                Tokens(i.hidden_states * t.hidden_states.shape[1], i.attention_mask),
            )
        ),
        "a pair's image tokens change when it is batched",
    ),
    (WrongReads, "uses: fuse for the text use 'all' differs from forward"),
    (
        EverythingRead,
        "fuse returned text tokens for the use 'none', expected None|fuse for the text use",
    ),
    (WrongRows, "rows: fuse_rows differs from fuse in the text tokens of pairs that share a row"),
    (WrongRealTokens, "real tokens: fuse gives other real text tokens if it is told which"),
    (CountingFusion, "frozen .* a forward changes count"),
    (RandomWhenFrozen, "frozen .*, its result differs each time"),
]


@pytest.mark.parametrize(("fusion", "text"), FUSIONS)
def test_broken_fusions(fusion: type, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check(fusion)
