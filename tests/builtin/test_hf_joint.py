from inspect import signature
from pathlib import Path

import pytest
import torch
from support.tiny_models import (
    IMAGE_MODELS,
    ROTARY_IMAGE,
    ROTARY_TEXT,
    TEXT_MODELS,
    TRANSFORMERS,
    context,
    count_linear_calls,
    gradient_names,
    images,
    save_model,
    texts,
    without_dropout,
)
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from renaissance import PluginError, SpecError, Tokens
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.huggingface.image_bias import ImageBias

DINOV2_TAKES_A_MASK = "attention_mask" in signature(Dinov2Layer.forward).parameters
ROTARY = {n: family for n, (family, _) in (ROTARY_TEXT | ROTARY_IMAGE).items()}
# The oldest transformers that is supported has not all of them.
NEW = {name for name, family in ROTARY.items() if family not in CONFIG_MAPPING}
TEXT_FAMILIES = [name for name in [*TEXT_MODELS, *ROTARY_TEXT] if name not in NEW]
IMAGE_FAMILIES = [
    name
    for name in [*TRANSFORMERS, *ROTARY_IMAGE]
    if name not in NEW and (name != "dinov2" or DINOV2_TAKES_A_MASK)
]
FAMILIES = [*TEXT_FAMILIES, *IMAGE_FAMILIES]


def load(folder: Path, options: dict[str, object] | None = None, **values: object):
    torch.manual_seed(4)
    return HFJointEncoder(
        HFJointEncoder.Options(checkpoint=str(folder), **(options or {})), context(**values)
    ).eval()


def both(encoder: HFJointEncoder, num_padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint states of three texts, each with an image: texts' (with padding), then images'."""
    input_ids, attention_mask = texts()
    input_ids = nn.functional.pad(input_ids, (0, num_padding), value=7)
    attention_mask = nn.functional.pad(attention_mask, (0, num_padding), value=False)
    text = encoder.encode_text(input_ids, attention_mask)
    image = encoder.encode_image(images())
    tokens = encoder.encode_joint(
        Tokens(*(torch.cat(pair, dim=1) for pair in zip(text, image, strict=True)))
    )
    num_text_tokens = input_ids.shape[1]
    return tokens.hidden_states[:, :num_text_tokens], tokens.hidden_states[:, num_text_tokens:]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_texts_alone_come_out_as_of_the_text_model(family, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    input_ids, attention_mask = texts()
    expected = reference(input_ids=input_ids, attention_mask=attention_mask.long())
    encoder = load(tmp_path)
    tokens = encoder.encode_joint(encoder.encode_text(input_ids, attention_mask))
    # Padding does not count in rotary positions.
    same = attention_mask if family in ROTARY else torch.ones_like(attention_mask)
    states = expected.last_hidden_state[same]
    torch.testing.assert_close(tokens.hidden_states[same], states, atol=1e-5, rtol=0)
    assert torch.equal(tokens.attention_mask, attention_mask)


# 1 is a separator that the example at loading contains, too.
@pytest.mark.parametrize("separator_id", [1, 3])
def test_the_second_of_two_texts_comes_out_as_of_the_text_model(separator_id, tmp_path):
    save_model(tmp_path, "bert")
    reference = AutoModel.from_pretrained(tmp_path).eval()
    input_ids = torch.tensor([[2, 7, 8, separator_id, 9, 10, 11, separator_id]])
    mask = torch.ones_like(input_ids)
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    expected = reference(input_ids=input_ids, attention_mask=mask, token_type_ids=types)
    encoder = load(tmp_path, separator_id=separator_id)
    found = encoder.encode_joint(encoder.encode_text(input_ids, mask.bool())).hidden_states
    torch.testing.assert_close(found, expected.last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_images_alone_come_out_as_of_the_image_model(family, tmp_path):
    save_model(tmp_path, family)
    expected = AutoModel.from_pretrained(tmp_path).eval()(images()).last_hidden_state
    encoder = load(tmp_path)
    tokens = encoder.encode_joint(encoder.encode_image(images()))
    torch.testing.assert_close(tokens.hidden_states, expected, atol=1e-5, rtol=0)
    assert tokens.attention_mask.all()


@pytest.mark.parametrize("family", ["vit", "beit", "clip", "dinov3"])
def test_images_of_another_size_come_out_as_of_the_image_model(family, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    switch = {} if family in ("beit", "dinov3") else {"interpolate_pos_encoding": True}
    expected = reference(images(48), **switch).last_hidden_state
    encoder = load(tmp_path, image_size=48)
    found = encoder.encode_joint(encoder.encode_image(images(48))).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_real_token(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    _, attention_mask = texts()
    plain_text, plain_image = both(encoder)
    padded_text, padded_image = both(encoder, num_padding=3)
    torch.testing.assert_close(
        padded_text[:, :9][attention_mask], plain_text[attention_mask], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(padded_image, plain_image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_modalities_see_each_other(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    fused_text, fused_image = both(encoder)
    alone_text = encoder.encode_joint(encoder.encode_text(*texts())).hidden_states
    alone_image = encoder.encode_joint(encoder.encode_image(images())).hidden_states
    assert (fused_text - alone_text).abs().max() > 1e-2
    assert (fused_image - alone_image).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_parameter_gets_a_gradient(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    asking, given = gradient_names(encoder, torch.cat(both(encoder), dim=1))
    assert asking == given
    assert len(asking) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_number(family, tmp_path):
    save_model(tmp_path, family)
    results, num_recomputed = [], []
    for every_n_layers in (None, 2, 1):
        encoder = load(tmp_path, {"config": without_dropout(family)}).train()
        if every_n_layers:
            encoder.enable_gradient_checkpointing(every_n_layers)
        calls = count_linear_calls(encoder)
        states = torch.cat(both(encoder), dim=1)
        num_forward = len(calls)
        states.square().sum().backward()
        num_recomputed.append(len(calls) - num_forward)
        gradients = [p.grad for p in encoder.parameters() if p.requires_grad]
        results.append([states.detach(), *gradients])
    assert 0 == num_recomputed[0] < num_recomputed[1] < num_recomputed[2]
    for plain, half, whole in zip(*results, strict=True):
        torch.testing.assert_close(half, plain)
        torch.testing.assert_close(whole, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_the_meta_device_only_shapes_are_made(family, tmp_path):
    save_model(tmp_path, family)
    with torch.device("meta"):
        encoder = load(tmp_path, load_weights=False)
    assert all(p.is_meta for p in encoder.parameters())
    text = encoder.encode_text(*(t.to("meta") for t in texts()))
    image = encoder.encode_image(images().to("meta"))
    tokens = encoder.encode_joint(
        Tokens(*(torch.cat(pair, dim=1) for pair in zip(text, image, strict=True)))
    )
    real = torch.cat(both(load(tmp_path)), dim=1)
    assert tokens.hidden_states.is_meta
    assert tokens.hidden_states.shape == real.shape


def test_text_embeddings_of_an_image_model_fit_the_tokenizer(tmp_path):
    save_model(tmp_path, "vit")
    encoder = load(tmp_path, vocab_size=123, max_text_length=11)
    shapes = {tuple(p.shape) for p in encoder.text_embeddings.parameters()}
    assert encoder.text_embeddings.norm.eps == 1e-12  # As in BERT.
    assert {(123, 16), (11, 16)} <= shapes
    ids = torch.full((1, 11), 122)
    embedded = encoder.encode_text(ids, ids > 0).hidden_states
    # The same word at two places differs by its position.
    assert not torch.allclose(embedded[0, 0], embedded[0, 1])


def test_image_embeddings_of_a_text_model_see_each_patch_once(tmp_path):
    save_model(tmp_path, "electra")
    encoder = load(tmp_path, {"patch_size": 8})
    embedded = encoder.encode_image(images()).hidden_states
    assert embedded.shape == (3, 17, 16)
    changed = images()
    # The patch in the second row, third column: token 1 (class) + 1 * 4 + 2.
    changed[:, :, 8:16, 16:24] += 1
    differs = (encoder.encode_image(changed).hidden_states != embedded).any(dim=2)
    assert differs.nonzero()[:, 1].tolist() == [7, 7, 7]


def test_image_bias_lies_between_image_tokens_only():
    class Bias(nn.Module):
        def forward(self, grid: tuple[int, int]) -> torch.Tensor:
            assert grid == (1, 2)
            return torch.arange(1.0, 19.0).view(1, 2, 3, 3)

    bias = ImageBias([Bias()], (1, 2))
    mask = torch.tensor([True, False, True, True, True]).expand(1, 1, 5, 5)
    added = bias(1, mask)
    assert torch.equal(added[:, :, 2:, 2:], Bias()((1, 2)))
    assert (added[..., 1] == float("-inf")).all()
    assert (added[:, :, :2, [0, 2, 3, 4]] == 0).all()
    assert (added[..., 0] == 0).all()
    text_alone = mask[..., :2, :2]
    assert bias(0, text_alone) is text_alone


def test_each_layer_of_beit_has_its_own_bias(tmp_path):
    save_model(tmp_path, "beit")
    encoder = load(tmp_path)
    fused = torch.cat(both(encoder), dim=1)
    biases = encoder.stack.image_bias.biases
    assert len(biases) == 2
    for bias in biases:
        before = bias.relative_position_bias_table.detach().clone()
        with torch.no_grad():
            bias.relative_position_bias_table.mul_(2)
        assert not torch.allclose(torch.cat(both(encoder), dim=1), fused)
        with torch.no_grad():
            bias.relative_position_bias_table.copy_(before)


def test_beit_runs_in_bfloat16(tmp_path):
    save_model(tmp_path, "beit")
    encoder = load(tmp_path)
    expected = torch.cat(both(encoder), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.cat(both(encoder), dim=1)
    torch.testing.assert_close(found.float(), expected, atol=0.2, rtol=0.1)


def test_with_image_bias_texts_must_be_shorter_than_images(tmp_path):
    save_model(tmp_path, "beit")
    load(tmp_path, max_text_length=16)
    with pytest.raises(SpecError) as caught:
        load(tmp_path, max_text_length=17)
    assert "data.max_text_length is 17" in str(caught.value)
    assert "shorter than an image, 17 tokens" in str(caught.value)


@pytest.mark.parametrize("family", ["swin", "resnet", "convnext"])
def test_networks_of_stages_are_refused(family, tmp_path):
    save_model(tmp_path, family)
    with pytest.raises(PluginError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"hf-joint: '{family}' works in stages, which change the width and the number of its "
        "tokens, so text cannot run through it; use one of BERT, RoBERTa, ELECTRA, DistilBERT, "
        "ViT, DeiT, BEiT and CLIP, or this one in a two-tower model"
    )


def build(family: str, config: dict[str, object]) -> HFJointEncoder:
    return HFJointEncoder(HFJointEncoder.Options(architecture=family, config=config), context())


def test_stacks_that_are_built_in_another_way_are_refused():
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(PluginError, match="'albert' is not a stack of 2 layers of one class"):
        build("albert", {**size, "embedding_size": 8})
    with pytest.raises(PluginError, match=r"layers of 'deberta-v2' have no SDPA attention in"):
        build("deberta-v2", size)
    # Their layers rotate by what another module derives from the positions of patches.
    for family in ("mlcd_vision_model", "pixtral"):
        with pytest.raises(PluginError, match=f"'{family}' does not work when its layers are run"):
            build(family, {**size, "patch_size": 8})


@pytest.mark.skipif(DINOV2_TAKES_A_MASK, reason="this transformers has DINOv2 layers with mask")
def test_layers_without_a_mask_are_refused(tmp_path):
    save_model(tmp_path, "dinov2")
    with pytest.raises(PluginError, match="the layers of 'dinov2' take no attention mask in"):
        load(tmp_path)


def test_a_stack_that_makes_other_states_is_refused(tmp_path, monkeypatch):
    save_model(tmp_path, "bert")
    plain = HFJointEncoder.encode_text

    def twice(self: HFJointEncoder, *inputs: torch.Tensor) -> Tokens:
        tokens = plain(self, *inputs)
        return Tokens(tokens.hidden_states * 1.1, tokens.attention_mask)

    monkeypatch.setattr(HFJointEncoder, "encode_text", twice)
    with pytest.raises(PluginError, match="the output differs"):
        load(tmp_path)


def test_patch_size_belongs_to_text_models(tmp_path):
    save_model(tmp_path / "vit", "vit")
    with pytest.raises(SpecError, match="patch_size: got 8, but an image model has its own patch"):
        load(tmp_path / "vit", {"patch_size": 8})
    save_model(tmp_path / "bert", "bert")
    with pytest.raises(SpecError, match=r"patch_size 12 takes multiples of 12 .* 24 and 36"):
        load(tmp_path / "bert", {"patch_size": 12})


def test_new_embeddings_are_a_function_of_the_seed(tmp_path):
    save_model(tmp_path, "bert")
    first, second = (both(load(tmp_path)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_both_kinds_of_models_say_where_their_weights_come_from(tmp_path):
    save_model(tmp_path, "deit")
    assert load(tmp_path).weights_source == f"local folder {tmp_path}"
    config = {key: v for key, v in IMAGE_MODELS["deit"][1].items() if key != "image_size"}
    assert build("deit", config).weights_source == "random, architecture deit"


def test_image_tokens_go_on_where_the_text_ends(tmp_path):
    save_model(tmp_path, "nomic_bert")
    reference = AutoModel.from_pretrained(tmp_path).eval()
    encoder = load(tmp_path)
    (input_ids, mask), image = texts(), encoder.encode_image(images()).hidden_states
    text = encoder.encode_text(input_ids, mask)
    _, joint = both(encoder)
    for row, length in enumerate(mask.sum(1).tolist()):
        # What the library makes of a text without padding, followed by more tokens.
        one = torch.cat([text.hidden_states[row, :length], image[row]])[None]
        states = one
        angles = reference.rotary_emb(one, torch.arange(one.shape[1])[None])
        for layer in reference.layers:
            states = layer(states, attention_mask=None, position_embeddings=angles)
        torch.testing.assert_close(joint[row], states[0, length:], atol=1e-5, rtol=0)


def test_patches_rotate_in_two_dimensions_beside_a_text(tmp_path):
    save_model(tmp_path, "dinov3")
    reference = AutoModel.from_pretrained(tmp_path).eval()
    encoder = load(tmp_path)
    input_ids, mask = texts()
    text = encoder.encode_text(input_ids, mask).hidden_states[:1]
    states = torch.cat([text, encoder.encode_image(images()).hidden_states[:1]], dim=1)
    angles = reference.rope_embeddings(images())
    for layer in reference.model.layer:
        states = layer(states, attention_mask=None, position_embeddings=angles)
    expected = reference.norm(states)
    fused_text, fused_image = both(encoder)
    torch.testing.assert_close(fused_image[:1], expected[:, 9:], atol=1e-5, rtol=0)
    torch.testing.assert_close(fused_text[:1], expected[:, :9], atol=1e-5, rtol=0)


def test_text_without_an_image_does_not_rotate_in_an_image_model(tmp_path):
    save_model(tmp_path, "dinov3")
    encoder = load(tmp_path)
    tokens = encoder.encode_text(*texts())
    angles = encoder.stack.rotary(tokens)
    assert [part.shape for pair in angles for part in pair] == [(0, 8), (0, 8)]
    assert encoder.encode_joint(tokens).hidden_states.shape == (3, 9, 16)


@pytest.mark.parametrize("num_padding", [0, 4])
def test_local_attention_is_between_texts_alone(num_padding, tmp_path):
    # Layer 0 is global; from layer 1 on, text tokens attend to those at most 2 away.
    save_model(tmp_path, "modernbert", local_attention=4)
    encoder = load(tmp_path, {"patch_size": 8})
    reference = AutoModel.from_pretrained(tmp_path).eval()
    input_ids, mask = texts()
    input_ids = nn.functional.pad(input_ids, (0, num_padding), value=7)
    mask = nn.functional.pad(mask, (0, num_padding), value=False)
    expected = reference(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    found = encoder.encode_joint(encoder.encode_text(input_ids, mask)).hidden_states
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)
    assert found.isfinite().all()
    text = Tokens(torch.zeros(1, 6, 16), torch.tensor([[True] * 5 + [False]]))
    bias = encoder.stack.window.bias(text, torch.float32)
    near = (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 2
    near[5] = True  # Padding.
    near[:, 5] = False
    assert torch.equal(bias[0, 0] == 0, near)
    # With an image of 17 tokens: all see them, and they see all.
    pair = Tokens(torch.zeros(1, 6 + 17, 16))
    seen = encoder.stack.window.bias(pair, torch.float32)[0, 0] == 0
    assert seen[6:].all()
    assert seen[:, 6:].all()
    assert torch.equal(seen[:6, :6], (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 2)
    # No text is longer than the window.
    assert encoder.stack.window.bias(Tokens(torch.zeros(1, 3 + 17, 16)), torch.float32) is None


@pytest.mark.parametrize(
    ("family", "values", "reason"),
    [
        ("dinov3", {"max_text_length": 20}, "with rotary positions texts must be shorter than an"),
        ("modernbert", {}, r"with local attention \('modernbert'\) texts must be shorter than an"),
    ],
)
def test_where_lengths_tell_modalities_apart_texts_are_shorter(family, values, reason, tmp_path):
    save_model(tmp_path, family, **({"local_attention": 4} if family == "modernbert" else {}))
    with pytest.raises(SpecError, match=reason):
        load(tmp_path, **values)


@pytest.mark.parametrize("family", [name for name in ROTARY if name not in NEW])
def test_rotary_stacks_run_in_bfloat16(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    expected = torch.cat(both(encoder), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.cat(both(encoder), dim=1)
    difference = (found.float() - expected).abs().detach()
    assert float(difference.mean()) < 0.03 * float(expected.detach().abs().mean()) + 0.02


def test_patches_of_a_text_model_may_stay_as_they_are(tmp_path):
    save_model(tmp_path / "bert", "bert")
    encoder = load(tmp_path / "bert", {"image_norm": False})
    parts = encoder.image_embeddings
    patches = parts.projection(images()).flatten(2).transpose(1, 2)
    expected = torch.cat([parts.class_token.expand(3, -1, -1), patches], dim=1)
    embedded = encoder.encode_image(images()).hidden_states
    torch.testing.assert_close(embedded, expected + parts.position_embeddings)
    save_model(tmp_path / "vit", "vit")
    with pytest.raises(SpecError, match="image_norm: got false, but an image model has its own"):
        load(tmp_path / "vit", {"image_norm": False})
