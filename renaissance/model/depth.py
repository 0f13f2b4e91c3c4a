"""The layers of an encoder, found by structure, and how deep each parameter lies.

Attribute names are not asked: libraries rename them between releases.
"""

import re
from collections.abc import Iterator, Sequence

from torch import nn

# Class names such as BatchNorm2d, T5LayerNorm and ConvNextV2GRN (global response normalization).
NORM = re.compile(r"(Norm|GRN)(\dd)?$")


class UnknownDepthError(ValueError):
    """An encoder has no layers that could be told by its structure."""


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder, the first one first.

    They are the list of modules of one class that is in no other such list. If these differ in the
    shapes of their parameters, they are stages (Swin, ConvNeXt, ResNet), each with a list of its
    own, and the layers are those of all stages.

    Raises:
        UnknownDepthError: If there is no such list, or more than one.
    """
    return [layer for stage in _stages(encoder) for layer in stage[1]]


def depths_of(encoder: nn.Module) -> tuple[dict[int, int], int]:
    """Return the depth of each parameter by its id, and the largest depth.

    Embeddings have depth 0, layers 1, 2, ...; a final norm lies above the last layer. What a stage
    has besides its layers goes with its first or its last one, whichever is next to it.

    Raises:
        UnknownDepthError: If the layers cannot be told.
    """
    depths = {id(parameter): 0 for parameter in encoder.parameters()}
    depth = 0
    stages = _stages(encoder)
    for stage, layers in stages:
        index_of = {
            id(parameter): index
            for index, layer in enumerate(layers, start=1)
            for parameter in layer.parameters()
        }
        index = 1
        for parameter in stage.parameters():
            index = index_of.get(id(parameter), index)
            depths[id(parameter)] = depth + index
        depth += len(layers)
    for norm in _final_norms(encoder, stages[-1][0]):
        depths.update({id(parameter): depth + 1 for parameter in norm.parameters()})
    return depths, depth + 1


def _stages(encoder: nn.Module) -> list[tuple[nn.Module, Sequence[nn.Module]]]:
    """Return the stages, each with its layers; a layer that is in no stage is one by itself."""
    found = list(_outermost_lists(encoder))
    if len(found) != 1:
        raise UnknownDepthError(
            f"its structure has {len(found) or 'no'} lists of layers of one class, expected one"
        )
    [entries] = found
    if len({_shapes(entry) for entry in entries}) == 1:
        return [(entry, [entry]) for entry in entries]
    stages: list[tuple[nn.Module, Sequence[nn.Module]]] = []
    for entry in entries:
        inner = list(_outermost_lists(entry, smallest=1))
        if len(inner) != 1:
            # Not stages: layers that differ, as of growing width.
            return [(entry, [entry]) for entry in entries]
        stages.append((entry, inner[0]))
    return stages


def _outermost_lists(module: nn.Module, smallest: int = 2) -> Iterator[list[nn.Module]]:
    """Yield the lists of modules of one class, with parameters, that are in no other such list."""
    children = list(module.children())
    is_list = isinstance(module, nn.ModuleList | nn.Sequential) and len(children) >= smallest
    has_parameters = all(next(child.parameters(), None) is not None for child in children)
    if is_list and has_parameters and len({type(child) for child in children}) == 1:
        yield children
        return
    for child in children:
        yield from _outermost_lists(child, smallest)


def _shapes(module: nn.Module) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(parameter.shape) for parameter in module.parameters())


def _final_norms(module: nn.Module, last: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms that come after the last layer, beside the modules that it is in."""
    is_after = False
    for child in module.children():
        if any(inner is last for inner in child.modules()):
            is_after = True
            yield from _final_norms(child, last)
        elif is_after and NORM.search(type(child).__name__):
            yield child
