"""The base of the built-in fusions: a stack of layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renaissance import (
    FusedUse,
    Fusion,
    Tokens,
    TokenUse,
    compute_dtype,
    initialize_linear,
    own_precision,
    take_rows,
)
from renaissance.builtin.fusions.options import StackOptions
from renaissance.builtin.fusions.streams import RealTokens, Stream, real_tokens


class FusionLayer(nn.Module, ABC):
    """One layer of a stack: text and image in, text and image out.

    Attributes:
        is_recomputed: Whether its activations are recomputed in the backward pass.
    """

    is_recomputed = False

    @abstractmethod
    def forward(
        self, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the layer, skipping what is not read.

        Returns:
            Hidden states of text and of image: of all tokens, in the form of those given; of the
            first one, (pairs, 1, hidden); or None, as `text_use` and `image_use` say.
        """


class StackedFusion(Fusion):
    """A stack of layers, the last of which computes only what is read.

    Weights are initialized like BERT's, scaled to the width (`initialize_linear`).

    Attributes:
        skips_padding: Whether its layers take text as real tokens alone (`Stream.packed`).
    """

    follows_dtype = True
    skips_padding = True
    Options = StackOptions

    def __init__(self, options: StackOptions, layers: Sequence[FusionLayer]) -> None:
        super().__init__()
        self.hidden_size = options.hidden_size
        self.layers = nn.ModuleList(layers)
        self.apply(initialize_linear)

    def forward(self, text: Tokens, image: Tokens) -> tuple[Tokens, Tokens]:
        """Run all layers, each on all tokens."""
        with own_precision(self._weight):
            streams = self.streams(text, image)
            for layer in self.layers:
                streams = self._run_whole(layer, *streams)
        return text.with_states(streams[0].states), image.with_states(streams[1].states)

    def fuse(
        self, text: Tokens, image: Tokens, uses: Sequence[FusedUse]
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        """Run all layers; the last one computes only the tokens that are read.

        It runs once per series of consecutive groups of pairs with the same use.
        """
        with own_precision(self._weight):
            masks = optional_mask(text), optional_mask(image)
            return self._fuse_streams(*self.streams(text, image), masks, uses)

    def _fuse_streams(
        self,
        text: Stream,
        image: Stream,
        masks: tuple[Tensor | None, Tensor | None],
        uses: Sequence[FusedUse],
    ) -> list[tuple[Tokens | None, Tokens | None]]:
        num_tokens = text.states.shape[1]
        packed = real_tokens(uses, num_tokens) if self.skips_padding else None
        if packed is not None:
            text = text._replace(states=packed.pack(text.states), packed=packed)
        streams = text, image
        for layer in self.layers[:-1]:
            streams = self._run_whole(layer, *streams)
        series = _equal_neighbours(uses)
        series_sizes = [sum(use.num_pairs for use in same) for same in series]
        parts_packed = [real_tokens(same, num_tokens) if packed else None for same in series]
        parts = zip(
            _split_stream(streams[0], series_sizes, parts_packed),
            _split_stream(streams[1], series_sizes, [None] * len(series)),
            strict=True,
        )
        fused_text: list[Tensor | None] = []
        fused_image: list[Tensor | None] = []
        for same, (part_text, part_image) in zip(series, parts, strict=True):
            read = same[0].text, same[0].image
            text_states, image_states = self._run(self.layers[-1], part_text, part_image, *read)
            if text_states is not None and read[0] == "all":
                text_states = part_text.unpack(text_states)
            sizes = [use.num_pairs for use in same]
            fused_text += _split_states(text_states, sizes)
            fused_image += _split_states(_of_pairs(image_states, part_image.rows), sizes)
        fused = _with_masks(fused_text, masks[0], uses), _with_masks(fused_image, masks[1], uses)
        return list(zip(*fused, strict=True))

    @property
    def _weight(self) -> Tensor:
        # All have one dtype.
        return next(self.parameters())

    def streams(self, text: Tokens, image: Tokens) -> tuple[Stream, Stream]:
        """Return what the layers take; masks become biases once, not in every layer."""
        dtype = compute_dtype(text.hidden_states)
        return (
            Stream(text.hidden_states, text.bias(dtype)),
            Stream(image.hidden_states, image.bias(dtype)),
        )

    def enable_gradient_checkpointing(self, every_n_layers: int = 1) -> None:
        """Keep only the layers' input for the backward pass, and recompute the rest there."""
        for layer in self.layers[::every_n_layers]:
            layer.is_recomputed = True  # type: ignore[assignment]

    def _run_whole(self, layer: nn.Module, text: Stream, image: Stream) -> tuple[Stream, Stream]:
        states = cast(tuple[Tensor, Tensor], self._run(layer, text, image, "all", "all"))
        return text._replace(states=states[0]), image._replace(states=states[1])

    def _run(
        self, layer: nn.Module, text: Stream, image: Stream, text_use: TokenUse, image_use: TokenUse
    ) -> tuple[Tensor | None, Tensor | None]:
        def run(text_states: Tensor, image_states: Tensor) -> tuple[Tensor | None, Tensor | None]:
            streams = text._replace(states=text_states), image._replace(states=image_states)
            states: tuple[Tensor | None, Tensor | None] = layer(*streams, text_use, image_use)
            return states

        if not (layer.is_recomputed and torch.is_grad_enabled()):
            return run(text.states, image.states)
        # Tensors are arguments, so that autograd knows of them as saved.
        states: tuple[Tensor | None, Tensor | None] = checkpoint(
            run, text.states, image.states, use_reentrant=False
        )
        return states


def _equal_neighbours(uses: Sequence[FusedUse]) -> list[list[FusedUse]]:
    # Not itertools.groupby, which torch.compile cannot trace with a key.
    series: list[list[FusedUse]] = []
    for use in uses:
        if series and (series[-1][0].text, series[-1][0].image) == (use.text, use.image):
            series[-1].append(use)
        else:
            series.append([use])
    return series


def optional_mask(tokens: Tokens) -> Tensor | None:
    """Return the mask of tokens, None if they have none."""
    return tokens.attention_mask if tokens.has_mask else None


def _of_pairs(states: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return states if states is None or rows is None else take_rows(states, rows)


def _split_stream(
    stream: Stream, sizes: list[int], packed: Sequence[RealTokens | None]
) -> list[Stream]:
    biases, rows = (_split_states(part, sizes) for part in (stream.bias, stream.rows))
    lengths = [n if p is None else p.num_real for n, p in zip(sizes, packed, strict=True)]
    # Rows are shared by all pairs.
    is_shared = stream.rows is not None
    states = [stream.states] * len(sizes) if is_shared else _split_states(stream.states, lengths)
    parts = zip(cast(list[Tensor], states), biases, rows, packed, strict=True)
    return [Stream(*part) for part in parts]


def _split_states(states: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    if states is None:
        return [None] * len(sizes)
    if len(sizes) == 1:
        return [states]
    # One split rather than one slice per size: its gradient is a single concatenation.
    parts: Sequence[Tensor] = states.split(sizes)  # type: ignore[no-untyped-call]
    return parts


def _with_masks(
    fused: Sequence[Tensor | None], mask: Tensor | None, uses: Sequence[FusedUse]
) -> list[Tokens | None]:
    """Return the fused states of each group of pairs, with their masks."""
    results: list[Tokens | None] = []
    start = 0
    for states, use in zip(fused, uses, strict=True):
        stop = start + use.num_pairs
        if states is None:
            results.append(None)
        else:
            num_tokens = states.shape[1]
            part = None if mask is None else mask[start:stop, :num_tokens]
            results.append(Tokens(states, part))
        start = stop
    return results
