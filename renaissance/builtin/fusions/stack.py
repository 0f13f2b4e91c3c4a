"""The base of the built-in fusions: a stack of layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renaissance import FusedUse, Fusion, Tokens, TokenUse, initialize_linear
from renaissance.builtin.fusions.options import StackOptions


class FusionLayer(nn.Module, ABC):
    """One layer of a stack: text and image in, text and image out."""

    @abstractmethod
    def forward(
        self, text: Tokens, image: Tokens, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the layer, skipping what is not read.

        Returns:
            Hidden states of text and of image, (pairs, tokens, hidden): of all tokens, of the first
            one, or None, as `text_use` and `image_use` say.
        """


class StackedFusion(Fusion):
    """A stack of layers, the last of which computes only what is read.

    Weights are initialized like BERT's, scaled to the width (`initialize_linear`).
    """

    Options = StackOptions

    def __init__(self, options: StackOptions, layers: Sequence[FusionLayer]) -> None:
        super().__init__()
        self.hidden_size = options.hidden_size
        self.layers = nn.ModuleList(layers)
        self.apply(initialize_linear)
        self._checkpointing = False

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Run all layers, each on all tokens."""
        for layer in self.layers:
            text, image = self._run_whole(layer, text, image)
        return text, image

    def fuse(
        self, text: Tokens, image: Tokens, uses: Sequence[FusedUse]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Run all layers; the last one computes only the tokens that are read.

        It runs once per series of consecutive groups of pairs with the same use.
        """
        for layer in self.layers[:-1]:
            text, image = self._run_whole(layer, text, image)
        series = _equal_neighbours(uses)
        series_sizes = [sum(use.num_pairs for use in same) for same in series]
        results: list[tuple[Tokens | None, Tokens | None]] = []
        for same, part_text, part_image in zip(
            series, _split(text, series_sizes), _split(image, series_sizes), strict=True
        ):
            fused = self._run(self.layers[-1], part_text, part_image, same[0].text, same[0].image)
            sizes = [use.num_pairs for use in same]
            parts = [[None] * len(same) if t is None else _split(t, sizes) for t in fused]
            results += zip(*parts, strict=True)
        return results

    def enable_gradient_checkpointing(self) -> None:
        """Keep only each layer's input for the backward pass, and recompute the rest there."""
        self._checkpointing = True

    def _run_whole(self, layer: nn.Module, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        return cast(tuple[Tokens, Tokens], self._run(layer, text, image, "all", "all"))

    def _run(
        self, layer: nn.Module, text: Tokens, image: Tokens, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tokens | None, Tokens | None]:
        arguments = (text, image, text_use, image_use)
        if self._checkpointing and torch.is_grad_enabled():
            text_states, image_states = checkpoint(layer, *arguments, use_reentrant=False)
        else:
            text_states, image_states = layer(*arguments)
        return _with_mask(text_states, text), _with_mask(image_states, image)


def select(hidden_states: Tensor, use: TokenUse) -> Tensor:
    """Return the states of all tokens (the same tensor) or of the first token."""
    return hidden_states if use == "all" else hidden_states[:, :1]


def _with_mask(states: Tensor | None, tokens: Tokens) -> Tokens | None:
    if states is None:
        return None
    return Tokens(states, tokens.attention_mask[:, : states.shape[1]])


def _equal_neighbours(uses: Sequence[FusedUse]) -> list[list[FusedUse]]:
    # Not itertools.groupby, which torch.compile cannot trace with a key.
    series: list[list[FusedUse]] = []
    for use in uses:
        if series and (series[-1][0].text, series[-1][0].image) == (use.text, use.image):
            series[-1].append(use)
        else:
            series.append([use])
    return series


def _split(tokens: Tokens, sizes: list[int]) -> list[Tokens]:
    if len(sizes) == 1:
        return [tokens]
    # One split rather than one slice per size: its gradient is a single concatenation.
    parts = zip(*(part.split(sizes) for part in tokens), strict=True)  # type: ignore[no-untyped-call]
    return [Tokens(*part) for part in parts]
