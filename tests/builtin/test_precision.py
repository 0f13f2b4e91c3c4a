"""Components that follow their parameters' dtype: in a bf16 step, all of their states are bf16."""

from typing import Any

import pytest
import torch
from support.tiny_models import VOCAB_SIZE, context
from torch import Tensor, nn

from renaissance import Encoder, Tokens
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.precision import FOLLOWING_FAMILIES
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.cross_attention import CrossAttention
from renaissance.builtin.fusions.lxmert import Lxmert
from renaissance.builtin.fusions.merged_attention import MergedAttention
from renaissance.builtin.heads.linear import Linear
from renaissance.builtin.heads.mlm import MLMHead
from renaissance.builtin.heads.mlp import MLP
from renaissance.builtin.poolers.double import Double
from renaissance.builtin.poolers.mean import Mean
from renaissance.builtin.poolers.single import Single
from renaissance.engine.bf16_copies import Bf16Copies

SIZES: dict[str, object] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
IMAGE = {**SIZES, "patch_size": 8}
CONFIGS: dict[str, dict[str, object]] = {
    "bert": SIZES,
    "camembert": {**SIZES, "pad_token_id": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "electra": {**SIZES, "embedding_size": 8},
    "roberta": {**SIZES, "pad_token_id": 1},
    "siglip_text_model": SIZES,
    "xlm-roberta": {**SIZES, "pad_token_id": 1},
    "beit": {**IMAGE, "use_relative_position_bias": True},
    "clip_vision_model": IMAGE,
    "deit": IMAGE,
    "dinov2": {name: value for name, value in IMAGE.items() if name != "intermediate_size"},
    "siglip_vision_model": IMAGE,
    "vit": IMAGE,
}
TEXT_FAMILIES = (
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "roberta",
    "siglip_text_model",
    "xlm-roberta",
)
MASK = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]


def run(encoder: Encoder) -> Tokens:
    ids = torch.arange(24).view(3, 8) % (VOCAB_SIZE - 5) + 5
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    if isinstance(encoder, HFJointEncoder):
        text, image = encoder.encode_text(ids[:2], MASK[:2]), encoder.encode_image(pixels)
        both = [torch.cat(parts, dim=1) for parts in zip(text, image, strict=True)]
        return encoder.encode_joint(Tokens(*both))
    if isinstance(encoder, HFTextEncoder):
        return encoder.encode_text(ids, MASK)
    return encoder.encode_image(pixels)


def dtypes_of(module: nn.Module) -> set[torch.dtype]:
    """Record the dtypes of all that the parts of a module return."""
    found: set[torch.dtype] = set()

    def note(part: nn.Module, arguments: object, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            found.add(output.dtype)

    for part in module.modules():
        # Of an embedding, what its users see.
        if not isinstance(part, nn.Embedding):
            part.register_forward_hook(note)
    return found


def make(family: str, kind: type[Any]) -> Encoder:
    torch.manual_seed(0)
    options = kind.Options(architecture=family, config=CONFIGS[family])
    encoder: Encoder = kind(options, context())
    return encoder.eval()


def test_each_following_family_is_tested():
    assert set(CONFIGS) == FOLLOWING_FAMILIES


@pytest.mark.parametrize("kind", [HFTextEncoder, HFImageEncoder, HFJointEncoder])
@pytest.mark.parametrize("family", sorted(FOLLOWING_FAMILIES))
def test_families_keep_bf16_states(family: str, kind: type[Any]):
    if kind is not HFJointEncoder and (kind is HFTextEncoder) != (family in TEXT_FAMILIES):
        pytest.skip("of the other modality")
    encoder = make(family, kind)
    encoder.requires_grad_(False)
    expected = run(encoder)
    dtypes = dtypes_of(encoder)
    with Bf16Copies([encoder]).in_use(), torch.autocast("cpu", torch.bfloat16):
        tokens = run(encoder)
    assert encoder.follows_dtype
    assert dtypes == {torch.bfloat16}
    real = expected.attention_mask
    states, exact = tokens.hidden_states.float()[real], expected.hidden_states[real]
    assert float((states - exact).norm() / exact.norm()) < 0.03


def test_other_families_run_under_autocast():
    config = {**SIZES, "embedding_size": 8, "num_hidden_groups": 1}
    options = HFTextEncoder.Options(architecture="albert", config=config)
    assert not HFTextEncoder(options, context()).follows_dtype


@pytest.mark.parametrize("kind", [CoAttention, CrossAttention, Lxmert, MergedAttention])
def test_fusions_keep_bf16_states(kind: type[Any]):
    torch.manual_seed(0)
    fusion = kind(kind.Options(hidden_size=16, num_heads=2, num_layers=2)).eval()
    fusion.requires_grad_(False)
    text, image = torch.randn(3, 8, 16), torch.randn(3, 5, 16)
    expected = fusion(Tokens(text, MASK), Tokens(image))
    dtypes = dtypes_of(fusion)
    with Bf16Copies([fusion]).in_use(), torch.autocast("cpu", torch.bfloat16):
        fused = fusion(Tokens(text.bfloat16(), MASK), Tokens(image.bfloat16()))
    assert fusion.follows_dtype
    assert dtypes == {torch.bfloat16}
    for ours, exact in zip(fused, expected, strict=True):
        error = (ours.hidden_states.float() - exact.hidden_states).norm()
        assert float(error / exact.hidden_states.norm()) < 0.03


@pytest.mark.parametrize("kind", [Linear, MLP, MLMHead])
def test_heads_keep_bf16_states(kind: type[Any]):
    head = kind(kind.Options(), 16, 20)
    dtypes = dtypes_of(head)
    with Bf16Copies([head]).in_use(), torch.autocast("cpu", torch.bfloat16):
        head(torch.randn(3, 16).bfloat16())
    assert head.follows_dtype
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("kind", [Double, Mean, Single])
def test_poolers_keep_bf16_states(kind: type[Any]):
    pooler = kind(kind.Options(), 16)
    text = Tokens(torch.randn(3, 8, 16).bfloat16(), MASK)
    image = Tokens(torch.randn(3, 5, 16).bfloat16())
    with Bf16Copies([pooler]).in_use(), torch.autocast("cpu", torch.bfloat16):
        pooled = pooler(text, image)
    assert pooler.follows_dtype
    assert pooled.dtype == torch.bfloat16
