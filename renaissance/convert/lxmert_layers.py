"""LXMERT's cross-modality layers, whose weights transformers keeps apart by name."""

from collections.abc import Mapping

import torch
from torch import Tensor

ATTENTIONS = {
    "visual_attention.att": "cross_attention",
    "lang_self_att.self": "text_stream.self_attention",
    "visn_self_att.self": "image_stream.self_attention",
}
OUTPUTS = {
    "visual_attention.output": "cross_attention",
    "lang_self_att.output": "text_stream.self_attention",
    "visn_self_att.output": "image_stream.self_attention",
    "lang_output": "text_stream.feed_forward",
    "visn_output": "image_stream.feed_forward",
}
INTERMEDIATE = {
    "lang_inter.dense": "text_stream.feed_forward.intermediate",
    "visn_inter.dense": "image_stream.feed_forward.intermediate",
}


def convert_layers(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors of a fusion by our names, and the names that were converted.

    Args:
        tensors: The checkpoint's tensors.
        prefix: What the names of the list of layers begin with.
    """
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for index in sorted({int(n.removeprefix(prefix).split(".")[0]) for n in _of(tensors, prefix)}):
        start = f"{prefix}{index}."
        ours = f"model.fusion.layers.{index}"
        layer = {n.removeprefix(start): t for n, t in _of(tensors, start).items()}
        found = _layer(layer)
        converted |= {f"{ours}.{name}": tensor for name, (tensor, _) in found.items()}
        used |= {start + name for _, names in found.values() for name in names}
    return converted, used


def _layer(layer: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, list[str]]]:
    """Return each of our tensors, and the names of those that it is made of."""
    found: dict[str, tuple[Tensor, list[str]]] = {}
    for kind in ("weight", "bias"):
        for theirs, ours in ATTENTIONS.items():
            names = [f"{theirs}.{part}.{kind}" for part in ("query", "key", "value")]
            if all(name in layer for name in names):
                stacked = torch.cat([layer[name] for name in names])
                found[f"{ours}.query_key_value.{kind}"] = stacked, names
        renamed = {f"{t}.dense": f"{o}.output" for t, o in OUTPUTS.items()}
        renamed |= {f"{t}.LayerNorm": f"{o}.layer_norm" for t, o in OUTPUTS.items()}
        for theirs, ours in (renamed | INTERMEDIATE).items():
            name = f"{theirs}.{kind}"
            if name in layer:
                found[f"{ours}.{kind}"] = layer[name], [name]
    return found


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
