"""Fusion layers whose attention keeps query, key and value apart, as in BERT."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor


@attrs.frozen
class LayerNames:
    """Names in one layer, and ours.

    Attributes:
        attentions: Modules with query, key and value.
        outputs: Modules with a dense layer and a norm.
        intermediate: Linear layers.
    """

    attentions: Mapping[str, str]
    outputs: Mapping[str, str]
    intermediate: Mapping[str, str]


# transformers' LxmertXLayer.
LXMERT = LayerNames(
    {
        "visual_attention.att": "cross_attention",
        "lang_self_att.self": "text_stream.self_attention",
        "visn_self_att.self": "image_stream.self_attention",
    },
    {
        "visual_attention.output": "cross_attention",
        "lang_self_att.output": "text_stream.self_attention",
        "visn_self_att.output": "image_stream.self_attention",
        "lang_output": "text_stream.feed_forward",
        "visn_output": "image_stream.feed_forward",
    },
    {
        "lang_inter.dense": "text_stream.feed_forward.intermediate",
        "visn_inter.dense": "image_stream.feed_forward.intermediate",
    },
)
# One stream of METER's co-attention.
METER = LayerNames(
    {"attention.self": "self_attention", "crossattention.self": "cross_attention"},
    {
        "attention.output": "self_attention",
        "crossattention.output": "cross_attention",
        "output": "feed_forward",
    },
    {"intermediate.dense": "feed_forward.intermediate"},
)


def convert_layers(
    tensors: Mapping[str, Tensor], prefix: str, names: LayerNames, stream: str = ""
) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors of a fusion by our names, and the names that were converted.

    Args:
        tensors: The checkpoint's tensors.
        prefix: What the names of the list of layers begin with.
        names: The names in a layer.
        stream: The stream of our layers that they are, if they are not whole layers.
    """
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for index in range(count_layers(tensors, prefix)):
        start = f"{prefix}{index}."
        ours = ".".join(part for part in ("model.fusion.layers", str(index), stream) if part)
        layer = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        for name, (tensor, theirs) in _layer(layer, names).items():
            converted[f"{ours}.{name}"] = tensor
            used |= {start + their for their in theirs}
    return converted, used


def count_layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of layers in a list."""
    return len({n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)})


def _layer(layer: Mapping[str, Tensor], names: LayerNames) -> dict[str, tuple[Tensor, list[str]]]:
    """Return each of our tensors, and the names of those that it is made of."""
    found: dict[str, tuple[Tensor, list[str]]] = {}
    renamed = {f"{t}.dense": f"{o}.output" for t, o in names.outputs.items()}
    renamed |= {f"{t}.LayerNorm": f"{o}.layer_norm" for t, o in names.outputs.items()}
    renamed |= names.intermediate
    for kind in ("weight", "bias"):
        for theirs, ours in names.attentions.items():
            parts = [f"{theirs}.{part}.{kind}" for part in ("query", "key", "value")]
            if all(part in layer for part in parts):
                stacked = torch.cat([layer[part] for part in parts])
                found[f"{ours}.query_key_value.{kind}"] = stacked, parts
        for theirs, ours in renamed.items():
            name = f"{theirs}.{kind}"
            if name in layer:
                found[f"{ours}.{kind}"] = layer[name], [name]
    return found
