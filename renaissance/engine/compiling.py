"""Compile the layers of encoders and fusion: `train.compile`."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

# Equal layers share their graphs. These are for text lengths, for training and evaluation, and for
# what is read of a fusion's last layer.
MAX_GRAPHS = 32


def compile_layers(parts: Iterable[nn.Module], backend: str | Callable[..., object]) -> int:
    """Compile each layer by itself, so that one graph serves all layers of a stack.

    The size of a dimension that changes, such as the length of texts, becomes a variable when it
    does so for the first time; others stay constants.

    Args:
        parts: Encoders and fusion.
        backend: Backend of `torch.compile`.

    Returns:
        The number of layers.
    """
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    layers = [layer for part in parts for layer in layers_of(part)]
    for layer in layers:
        layer.compile(backend=backend)
    return len(layers)


def layers_of(part: nn.Module) -> list[nn.Module]:
    """Return the innermost entries of a module's lists of modules."""
    entries = [e for m in part.modules() if isinstance(m, nn.ModuleList) for e in m]
    return [e for e in entries if not any(isinstance(m, nn.ModuleList) for m in e.modules())]
