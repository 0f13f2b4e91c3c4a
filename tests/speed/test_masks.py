"""Masks: none where nothing is padded, and otherwise one bias that all layers share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from renaissance import EncoderContext, Fusion, Pairs
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.lxmert import Lxmert
from renaissance.builtin.fusions.merged_attention import MergedAttention
from renaissance.builtin.poolers.double import Double
from renaissance.model.base import VisionLanguageModel
from renaissance.model.one_tower import OneTower
from renaissance.model.two_tower import TwoTower

NUM_TEXTS, NUM_TEXT_TOKENS, NUM_IMAGES, NUM_IMAGE_TOKENS = 3, 8, 2, 17
CONTEXT = EncoderContext(image_size=16, max_text_length=NUM_TEXT_TOKENS, vocab_size=30)
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


class _Masks(TorchFunctionMode):
    """Keeps the masks that attention is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.masks.append((kwargs or {}).get("attn_mask"))
        return func(*args, **kwargs or {})

    @property
    def distinct(self) -> set[tuple[int, tuple[int, ...], torch.dtype]]:
        """Where each mask lies in memory, its shape and its dtype."""
        return {(m.data_ptr(), tuple(m.shape), m.dtype) for m in self.masks if m is not None}


def two_tower(fusion: type[Any]) -> VisionLanguageModel:
    text = HFTextEncoder.Options(architecture="bert", config=SIZES)
    image = HFImageEncoder.Options(architecture="vit", config=SIZES | {"patch_size": 4})
    made: Fusion = fusion(fusion.Options(hidden_size=16, num_heads=2, num_layers=3))
    return TwoTower(
        HFTextEncoder(text, CONTEXT),
        HFImageEncoder(image, CONTEXT),
        made,
        Double(Double.Options(), 16),
    )


def one_tower() -> VisionLanguageModel:
    options = HFJointEncoder.Options(architecture="bert", config=SIZES, patch_size=4)
    return OneTower(HFJointEncoder(options, CONTEXT), Double(Double.Options(), 16))


MODELS = {
    **{f.__name__: lambda f=f: two_tower(f) for f in (CoAttention, Lxmert, MergedAttention)},
    "one-tower": one_tower,
}


def run(model: nn.Module, precision: torch.dtype) -> dict[str, _Masks]:
    mask = torch.arange(NUM_TEXT_TOKENS) < torch.tensor([8, 3, 5])[:, None]
    assert isinstance(model, VisionLanguageModel)
    found = {"text": _Masks(), "image": _Masks(), "fuse": _Masks()}
    pairs = Pairs(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1]))
    is_half = precision == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half), torch.no_grad():
        with found["text"]:
            text = model.encode_text(torch.ones_like(mask, dtype=torch.int64), mask)
        with found["image"]:
            image = model.encode_image(torch.randn(NUM_IMAGES, 3, 16, 16))
            model.image_features(image)
        with found["fuse"]:
            model.fuse(text, image, [attrs.evolve(pairs), pairs])
    return found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_one_bias_per_forward_and_none_without_padding(name: str, precision: torch.dtype) -> None:
    found = run(MODELS[name](), precision)
    images = found["image"].masks
    assert len(images) == 3
    assert set(images) == {None}
    # Rows, not pairs of tokens: 8 requested pairs, each a text and an image.
    both = NUM_TEXT_TOKENS + NUM_IMAGE_TOKENS
    length = both if name in ("MergedAttention", "one-tower") else NUM_TEXT_TOKENS
    shapes = {(shape, dtype) for _, shape, dtype in found["fuse"].distinct}
    assert shapes == {((8, 1, 1, length), precision)}
    assert len(found["fuse"].distinct) == 1
    if name == "one-tower":
        assert found["text"].masks == []
    else:
        assert {shape for _, shape, _ in found["text"].distinct} == {(3, 1, 1, 8)}
        assert len(found["text"].distinct) == 1
