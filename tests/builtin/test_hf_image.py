import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.tiny_models import (
    IMAGE,
    IMAGE_MODELS,
    IMAGE_SIZE,
    LAYERS,
    TRANSFORMERS,
    context,
    count_linear_calls,
    gradient_names,
    images,
    save,
    save_model,
    without_dropout,
)
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BlipConfig,
    BlipModel,
    CLIPConfig,
    CLIPModel,
    DeiTForImageClassificationWithTeacher,
    Dinov2WithRegistersConfig,
    HGNetV2Backbone,
    HGNetV2Config,
    LevitConfig,
    PreTrainedConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    YolosConfig,
)
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from renaissance import PluginError, SpecError
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.huggingface.sizes import has_class_token

FAMILIES = list(IMAGE_MODELS)
# Special tokens before the patches.
NUM_SPECIAL = dict.fromkeys(TRANSFORMERS, 1) | {"deit": 2}
TAKE_A_SWITCH = ("vit", "deit", "clip")
NO_CHECKPOINTING = ("resnet", "convnext")


def load(folder: Path | str, config: dict[str, object] | None = None, **values: object):
    options = HFImageEncoder.Options(checkpoint=str(folder), config=config or {})
    return HFImageEncoder(options, context(**values)).eval()


def as_tokens(states: torch.Tensor) -> torch.Tensor:
    """Place (y, x) of a feature map is token y * width + x."""
    if states.dim() == 3:
        return states
    places = [states[:, :, y, x] for y in range(states.shape[2]) for x in range(states.shape[3])]
    return torch.stack(places, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_the_librarys_own(family, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    encoder = load(tmp_path)
    tokens = encoder.encode_image(images())
    assert torch.equal(tokens.hidden_states, as_tokens(reference(images()).last_hidden_state))
    assert torch.equal(
        tokens.attention_mask, torch.ones(tokens.hidden_states.shape[:2], dtype=torch.bool)
    )
    assert tokens.hidden_states.shape[-1] == encoder.hidden_size


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_summary_of_an_image_is_its_class_token_or_the_mean(family, device, tmp_path):
    save_model(tmp_path, family)
    with torch.device(device):
        encoder = load(tmp_path, load_weights=False)
    assert encoder.image_summary == ("first" if family in TRANSFORMERS else "mean")


@pytest.mark.parametrize("size", [24, 48])
@pytest.mark.parametrize("family", list(TRANSFORMERS))
def test_another_size_is_interpolated_like_the_library_does(family, size, tmp_path):
    save_model(tmp_path, family)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    switch = {"interpolate_pos_encoding": True} if family in TAKE_A_SWITCH else {}
    expected = reference(images(size), **switch).last_hidden_state
    states = load(tmp_path, image_size=size).encode_image(images(size)).hidden_states
    assert states.shape == (3, (size // 8) ** 2 + NUM_SPECIAL[family], 16)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_swin_with_absolute_positions_at_another_size(tmp_path):
    save_model(tmp_path, "swin", use_absolute_embeddings=True)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    expected = reference(images(48), interpolate_pos_encoding=True).last_hidden_state
    states = load(tmp_path, image_size=48).encode_image(images(48)).hidden_states
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["swin", "resnet", "convnext"])
def test_networks_of_stages_take_other_sizes_as_they_are(family, tmp_path):
    save_model(tmp_path, family)
    expected = AutoModel.from_pretrained(tmp_path).eval()(images(48)).last_hidden_state
    states = load(tmp_path, image_size=48).encode_image(images(48)).hidden_states
    torch.testing.assert_close(states, as_tokens(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["vit", "deit", "clip", "dinov2"])
def test_positions_are_interpolated_once_and_trained_at_the_new_size(family, tmp_path, monkeypatch):
    save_model(tmp_path, family)
    encoder = load(tmp_path, image_size=48)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("interpolated in a forward pass")

    monkeypatch.setattr(torch.nn.functional, "interpolate", forbidden)
    num_tokens = encoder.encode_image(images(48)).hidden_states.shape[1]
    tables = [p for p in encoder.parameters() if p.shape[-2:] == (num_tokens, 16)]
    assert len(tables) == 1
    assert tables[0].requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_parameter_gets_a_gradient(family, tmp_path):
    save_model(tmp_path, family)
    encoder = load(tmp_path)
    asking, given = gradient_names(encoder, encoder.encode_image(images()).hidden_states)
    assert asking == given
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    expected = {
        "clip": {"model.post_layernorm.weight", "model.post_layernorm.bias"},
        "convnext": {"model.layernorm.weight", "model.layernorm.bias"},
        "dinov2": {"model.embeddings.mask_token"},
    }
    assert frozen == expected.get(family, set())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in NO_CHECKPOINTING])
def test_gradient_checkpointing_changes_no_number(family, tmp_path):
    save_model(tmp_path, family)
    results, num_recomputed = [], []
    for every_n_layers in (None, 2, 1):
        encoder = load(tmp_path, without_dropout(family)).train()
        if every_n_layers:
            encoder.enable_gradient_checkpointing(every_n_layers)
        calls = count_linear_calls(encoder)
        states = encoder.encode_image(images()).hidden_states
        num_forward = len(calls)
        states.square().sum().backward()
        num_recomputed.append(len(calls) - num_forward)
        gradients = [p.grad for p in encoder.parameters() if p.requires_grad]
        results.append([states.detach(), *gradients])
    assert len(results[0]) > 10
    assert 0 == num_recomputed[0] < num_recomputed[1] < num_recomputed[2]
    for plain, half, whole in zip(*results, strict=True):
        torch.testing.assert_close(half, plain)
        torch.testing.assert_close(whole, plain)


@pytest.mark.parametrize("family", NO_CHECKPOINTING)
def test_families_without_gradient_checkpointing_say_so(family, tmp_path):
    save_model(tmp_path, family)
    with pytest.raises(ValueError, match=f"'{family}' models have no gradient checkpointing"):
        load(tmp_path).enable_gradient_checkpointing()


@pytest.mark.parametrize("family", FAMILIES)
def test_on_the_meta_device_only_shapes_are_made(family, tmp_path):
    save_model(tmp_path, family)
    with torch.device("meta"):
        encoder = load(tmp_path, load_weights=False)
    assert all(p.is_meta for p in encoder.parameters())
    states = encoder.encode_image(images().to("meta")).hidden_states
    assert states.is_meta
    assert states.shape == load(tmp_path).encode_image(images()).hidden_states.shape


def test_nothing_of_the_meta_device_is_left_over_in_later_models(tmp_path):
    # The library keeps BEiT's indices by grid; this is a grid that no other test has.
    size, grid = 80, (10, 10)
    save_model(tmp_path, "beit")
    with torch.device("meta"):
        load(tmp_path, load_weights=False, image_size=size)
    index = BeitRelativePositionBias.generate_relative_position_index(grid)
    assert not index.is_meta
    assert index.max() == 19 * 19 + 2


@pytest.mark.parametrize(
    ("family", "size", "nearest"),
    [
        ("vit", 45, "this 'vit' takes multiples of 8 pixels from 8 on; the nearest: 40 and 48"),
        ("deit", 3, "the nearest: 8"),
        ("swin", 30, "this 'swin' takes multiples of 8 pixels from 16 on; the nearest: 24 and 32"),
        ("swin", 8, "the nearest: 16"),
        ("resnet", 36, "this 'resnet' takes multiples of 8 pixels from 8 on; the nearest: 32 and"),
        ("convnext", 36, "the nearest: 32 and 40"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(family, size, nearest, tmp_path):
    save_model(tmp_path, family)
    with pytest.raises(SpecError) as caught:
        load(tmp_path, image_size=size)
    assert str(caught.value).startswith(f"hf-image: data.image_size is {size}, but ")
    assert nearest in str(caught.value)


@pytest.mark.parametrize("size", [IMAGE_SIZE, 48])
def test_of_a_whole_clip_only_the_image_part_is_loaded(size, tmp_path):
    part = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
    }
    config = CLIPConfig(
        text_config={**part, "vocab_size": 60, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**part, "image_size": IMAGE_SIZE, "patch_size": 8},
    )
    model = save(tmp_path, CLIPModel(config))
    encoder = load(tmp_path, image_size=size)
    expected = model.vision_model(images(size), interpolate_pos_encoding=True).last_hidden_state
    found = encoder.encode_image(images(size)).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert encoder.model.num_parameters() < model.num_parameters() / 2


@pytest.mark.parametrize(
    ("family", "task_class"),
    [
        (family, AutoModelForImageClassification)
        for family in ("vit", "beit", "dinov2", "swin", "resnet", "convnext")
    ]
    + [("deit", DeiTForImageClassificationWithTeacher)],
)
def test_a_classifiers_checkpoint_gives_its_base_model(family, task_class, tmp_path):
    save_model(tmp_path / "base", family)
    model = task_class.from_pretrained(tmp_path / "base").eval()
    model.save_pretrained(tmp_path / "task")
    expected = model.base_model(images()).last_hidden_state
    found = load(tmp_path / "task").encode_image(images()).hidden_states
    torch.testing.assert_close(found, as_tokens(expected), atol=1e-6, rtol=0)


def test_random_weights_are_made_for_the_runs_size():
    config = {**IMAGE_MODELS["vit"][1], "patch_size": 4}
    del config["image_size"]
    options = HFImageEncoder.Options(architecture="vit", config=config)
    encoder = HFImageEncoder(options, context(image_size=20))
    assert encoder.encode_image(images(20)).hidden_states.shape == (3, 26, 16)


def test_depths_can_be_overridden():
    config = {"depths": [1, 1], "num_heads": [1, 2], "embed_dim": 8, "window_size": 2}
    encoder = HFImageEncoder(HFImageEncoder.Options(architecture="swin", config=config), context())
    assert encoder.hidden_size == 16
    assert encoder.encode_image(images()).hidden_states.shape == (3, 16, 16)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_text_models_and_random_patches_are_refused(device):
    for family, reason in {
        "bert": "'bert' reads no images; use an image model such as ViT",
        "vit_mae": "'vit_mae' draws at random whenever it encodes (aten.rand",
        "align_text_model": "'align_text_model' reads no images",
        "voxtral_realtime_text": "reads no images; use an image model",
        "vilt": "'vilt' reads images only together with other inputs; use an image model",
        "grounding-dino": "'grounding-dino' reads images only together with other inputs "
        "(input_ids); use an image model such as ViT",
    }.items():
        with pytest.raises(PluginError) as caught, torch.device(device):
            HFImageEncoder(HFImageEncoder.Options(architecture=family), context())
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("family", "library"),
    [("conditional_detr", "timm"), ("timm_wrapper", "timm"), ("dinat", "natten")],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_library_that_is_not_installed_is_named(family, library, device):
    if find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    with pytest.raises(PluginError) as caught, torch.device(device):
        HFImageEncoder(HFImageEncoder.Options(architecture=family), context())
    assert str(caught.value) == (
        f"hf-image: {family!r} needs the library {library}, which is not installed; run "
        f"pip install {library}, or use another family"
    )


def test_a_message_does_not_list_every_family_that_there_is():
    # The library lists hundreds: 11 kB.
    with pytest.raises(SpecError) as caught:
        HFImageEncoder(HFImageEncoder.Options(architecture="nougat"), context())
    message = str(caught.value)
    assert message.startswith("hf-image: architecture: 'nougat' has no valid default config (Unrec")
    assert message.endswith("...); name a checkpoint, whose config.json says what is needed")
    assert len(message) < 500


def test_a_model_without_states_of_tokens_is_refused_by_name():
    # Without values, in a tenth of the time.
    with pytest.raises(PluginError) as caught, torch.device("meta"):
        HFImageEncoder(HFImageEncoder.Options(architecture="maskformer"), context())
    assert str(caught.value) == (
        "hf-image: 'maskformer' cannot encode a plain image (it returns a MaskFormerModelOutput, "
        "which has no states of tokens); use another family, or fix the config keys if you "
        "override any"
    )


HGNET = {
    "embedding_size": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "stem_channels": [3, 4, 8],
    "stage_in_channels": [8, 8], "stage_mid_channels": [4, 4], "stage_out_channels": [8, 16],
    "stage_num_blocks": [1, 1], "stage_downsample": [False, True], "stage_light_block": [False] * 2,
    "stage_kernel_size": [3, 3], "stage_numb_of_layers": [2, 2],
}  # fmt: skip


def test_of_a_backbone_the_last_feature_map_is_taken(tmp_path):
    model = save(tmp_path, HGNetV2Backbone(HGNetV2Config(**HGNET)))
    encoder = load(tmp_path)
    expected = model(pixel_values=images()).feature_maps[-1]
    assert expected.shape == (3, 16, 4, 4)
    assert encoder.hidden_size == 16
    assert encoder.image_summary == "mean"
    torch.testing.assert_close(encoder.encode_image(images()).hidden_states, as_tokens(expected))
    # Nothing would wait for a gradient of what is not used.
    encoder.train().encode_image(images()).hidden_states.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(49, False), (50, True), (54, True), (100, False), (300, False)]
)
def test_queries_of_a_detector_are_no_class_token(num_tokens, expected):
    states = torch.zeros(1, num_tokens, 8)
    assert has_class_token(PreTrainedConfig(), states, 224) is expected


def test_the_advice_for_a_vit_mae_works(tmp_path):
    config = {"hidden_size": 16, **LAYERS, **IMAGE, "decoder_hidden_size": 16}
    config |= {"decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    model = save(tmp_path, ViTMAEForPreTraining(ViTMAEConfig(**config)))
    with pytest.raises(PluginError, match=r'set "model_type": "vit" in a copy of its config.json'):
        load(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "model_type": "vit"}))
    # All patches, in their order.
    model.config.mask_ratio = 0.0
    order = torch.arange(16.0).expand(3, -1)
    expected = model.vit(images(), noise=order).last_hidden_state
    found = load(tmp_path).encode_image(images()).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_of_a_whole_blip_the_image_part_is_loaded(tmp_path):
    part = {"hidden_size": 16, **LAYERS}
    config = BlipConfig(text_config={**part, "vocab_size": 60}, vision_config={**part, **IMAGE})
    model = save(tmp_path, BlipModel(config))
    found = load(tmp_path).encode_image(images()).hidden_states
    expected = model.vision_model(images()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_kernels_that_a_config_names_are_not_downloaded(family, key, tmp_path):
    save_model(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: "someone/kernels"}))
    model = load(tmp_path).model
    assert model.config._attn_implementation == ("sdpa" if family == "vit" else "eager")


STAGES_16 = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 12]}


@pytest.mark.parametrize(
    ("family", "config", "size", "shape"),
    [
        # The width is named by no key; the last stage expands it.
        (
            "mobilevit",
            {"hidden_sizes": [8, 8, 12], "neck_hidden_sizes": [4, 4, 4, 4, 4, 4, 20]},
            32,
            (1, 20),
        ),
        (
            "efficientnet",
            {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
            32,
            (1, 128),
        ),
        # Of patches of 7 pixels, 4 apart; patch_size of its config is not used.
        ("poolformer", STAGES_16, 96, (9, 12)),
        ("hiera", {"embed_dim": 4, "num_heads": [1, 1, 1, 2], "depths": [1, 1, 1, 1]}, 96, (9, 32)),
        # 14 pixels to a token, at its own size.
        (
            "levit",
            {
                "hidden_sizes": [8, 8, 12],
                "num_attention_heads": [1, 1, 2],
                "key_dim": [4, 4, 4],
                "depths": [1, 1, 1],
            },
            224,
            (16, 12),
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_width_and_tokens_are_those_of_the_output(family, config, size, shape, device):
    with torch.device(device):
        options = HFImageEncoder.Options(architecture=family, config=config)
        encoder = HFImageEncoder(options, context(image_size=size)).eval()
    states = encoder.encode_image(images(size).to(device)).hidden_states
    assert states.shape == (3, *shape)
    assert encoder.hidden_size == shape[1]


REGISTERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "num_register_tokens": 3,
    **IMAGE,
}
LEVIT = {
    "hidden_sizes": [8, 8, 12],
    "num_attention_heads": [1, 1, 2],
    "key_dim": [4, 4, 4],
    "depths": [1, 1, 1],
    "image_size": 64,
}


@pytest.mark.parametrize("size", [16, 48])
def test_positions_are_antialiased_where_the_library_does(size, tmp_path):
    model = save(tmp_path, AutoModel.from_config(Dinov2WithRegistersConfig(**REGISTERS)))
    expected = model(images(size)).last_hidden_state
    encoder = load(tmp_path, image_size=size)
    found = encoder.encode_image(images(size)).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # And from a checkpoint of another size.
    started = load(tmp_path, load_weights=False, image_size=size)
    state = {
        name: tensor
        if tensor.shape == started.state_dict()[name].shape
        else started.fit_tensor(name, tensor)
        for name, tensor in load(tmp_path).state_dict().items()
    }
    started.load_state_dict(state)
    found = started.encode_image(images(size)).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("load_weights", [True, False])
def test_positions_that_the_library_does_not_resize_are_refused(load_weights, tmp_path):
    save(tmp_path, AutoModel.from_config(LevitConfig(**LEVIT)))
    load(tmp_path, image_size=64, load_weights=load_weights)
    with pytest.raises(PluginError) as caught:
        load(tmp_path, image_size=128, load_weights=load_weights)
    assert "this 'levit' is made for images of 64 pixels, not 128: the library" in str(caught.value)
    assert "set data.image_size to 64" in str(caught.value)


def test_a_size_that_no_run_can_have_is_not_advised(tmp_path):
    # Its positions are interpolated per layer, for pictures that are not square.
    config = {"hidden_size": 16, **LAYERS, "image_size": [32, 48], "patch_size": 8}
    save(tmp_path, AutoModel.from_config(YolosConfig(**config, num_detection_tokens=3)))
    with pytest.raises(PluginError) as caught:
        load(tmp_path, image_size=48)
    assert str(caught.value) == (
        "hf-image: this 'yolos' is made for images of 32 x 48 pixels, not 48: the library resizes "
        "its positions in a way that is not known here; take random weights (random_init = true)"
    )


def test_nothing_that_the_dry_run_derives_from_weights_is_kept(tmp_path):
    model = save(tmp_path, AutoModel.from_config(LevitConfig(**LEVIT)))
    expected = model(images(64)).last_hidden_state
    # As `renaissance evaluate` does: random weights first, then those of a checkpoint.
    encoder = load(tmp_path, load_weights=False, image_size=64)
    encoder.model.load_state_dict(model.state_dict())
    found = encoder.encode_image(images(64)).hidden_states
    torch.testing.assert_close(found, as_tokens(expected), atol=1e-5, rtol=0)
