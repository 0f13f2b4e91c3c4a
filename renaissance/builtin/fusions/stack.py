"""What the built-in fusions share: running a stack of layers."""

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
        """Run the layer, leaving out what is not read.

        Returns:
            Hidden states of text and image: of all tokens, of the first, or None, as read.
        """


class StackedFusion(Fusion):
    """A stack of layers, the last of which computes only what is read.

    Weights start as BERT's, scaled to the width (`initialize_linear`).
    """

    Options = StackOptions

    def __init__(self, options: StackOptions, layers: Sequence[FusionLayer]) -> None:
        super().__init__()
        self.hidden_size = options.hidden_size
        self.layers = nn.ModuleList(layers)
        self.apply(initialize_linear)
        self._checkpointing = False

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """See the base class."""
        for layer in self.layers:
            text, image = self._run_whole(layer, text, image)
        return text, image

    def fuse(
        self, text: Tokens, image: Tokens, uses: Sequence[FusedUse]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """See the base class. The last layer runs once for each change of what is read."""
        for layer in self.layers[:-1]:
            text, image = self._run_whole(layer, text, image)
        groups = _groups(uses)
        group_sizes = [sum(run.num_pairs for run in runs) for runs in groups]
        results: list[tuple[Tokens | None, Tokens | None]] = []
        for runs, group_text, group_image in zip(
            groups, _split(text, group_sizes), _split(image, group_sizes), strict=True
        ):
            fused = self._run(self.layers[-1], group_text, group_image, runs[0].text, runs[0].image)
            sizes = [run.num_pairs for run in runs]
            parts = [[None] * len(runs) if t is None else _split(t, sizes) for t in fused]
            results += zip(*parts, strict=True)
        return results

    def enable_gradient_checkpointing(self) -> None:
        """Keep each layer's input alone for backward, and compute the rest again there."""
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


def select(hidden_states: Tensor, read: TokenUse) -> Tensor:
    """Return the states of the tokens that are read: all (the same tensor), or the first."""
    return hidden_states if read == "all" else hidden_states[:, :1]


def _with_mask(states: Tensor | None, tokens: Tokens) -> Tokens | None:
    if states is None:
        return None
    return Tokens(states, tokens.attention_mask[:, : states.shape[1]])


def _groups(uses: Sequence[FusedUse]) -> list[list[FusedUse]]:
    # Not itertools.groupby, which torch.compile cannot trace with a key.
    groups: list[list[FusedUse]] = []
    for run in uses:
        if groups and (groups[-1][0].text, groups[-1][0].image) == (run.text, run.image):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _split(tokens: Tokens, sizes: list[int]) -> list[Tokens]:
    if len(sizes) == 1:
        return [tokens]
    # One split rather than a slice a run: its gradient is one concatenation.
    parts = zip(*(part.split(sizes) for part in tokens), strict=True)  # type: ignore[no-untyped-call]
    return [Tokens(*part) for part in parts]
