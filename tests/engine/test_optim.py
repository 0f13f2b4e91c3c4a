"""Learning rates and parameter groups, against numbers worked out by hand."""

import math
import re
from pathlib import Path

import pytest
from support.running import write_spec
from transformers import CONFIG_MAPPING, AutoModel

from renaissance.engine.optim import (
    learning_rate,
    make_optimizer,
    set_learning_rates,
    undecayed_parameters,
)
from renaissance.engine.run_parts import build
from renaissance.errors import SpecError
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import ScheduleSection


@pytest.mark.parametrize(
    ("model_type", "config", "undecayed"),
    [
        (
            "convnextv2",
            {"hidden_sizes": [4, 4], "depths": [1, 1], "num_stages": 2},
            {
                f"encoder.stages.{stage}.layers.0.grn.{name}"
                for stage in (0, 1)
                for name in ("weight", "bias")
            },
        ),
        (
            "swin",
            {"embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 2, "image_size": 8},
            {
                "encoder.layers.0.blocks.0.attention.relative_position_bias.relative_position_bias_table",
            },
        ),
        (
            "swinv2",
            {"embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 2, "image_size": 8},
            {"encoder.layers.0.blocks.0.attention.self.logit_scale"},
        ),
        (
            "t5",
            {"d_model": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "d_ff": 8, "vocab_size": 9},
            {
                f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
                for part in ("encoder", "decoder")
            },
        ),
    ],
)
def test_biases_and_norms_of_several_dimensions_do_not_decay(
    model_type: str, config: dict[str, object], undecayed: set[str]
) -> None:
    model = AutoModel.from_config(CONFIG_MAPPING[model_type](**config))
    found = {id(parameter) for parameter in undecayed_parameters(model)}
    named = dict(model.named_parameters())
    assert {n for n, p in named.items() if p.ndim > 1 and id(p) in found} == undecayed
    assert all(id(p) in found for p in named.values() if p.ndim == 1)


def test_linear_warmup_then_linear_decay() -> None:
    schedule = ScheduleSection(warmup_steps=4)
    rates = [learning_rate(step, 10, 0.8, schedule) for step in range(10)]
    warmup = [0.2, 0.4, 0.6, 0.8]
    decay = [0.8 * (10 - step) / 6 for step in range(4, 10)]
    assert rates == pytest.approx(warmup + decay)


def test_warmup_as_a_fraction_and_cosine_down_to_the_end_rate() -> None:
    schedule = ScheduleSection(decay="cosine", warmup_steps=0.2, end_learning_rate=0.1)
    assert learning_rate(0, 10, 1.0, schedule) == pytest.approx(0.5)
    middle = learning_rate(6, 10, 1.0, schedule)
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 4 / 8)))
    assert learning_rate(10, 10, 1.0, schedule) == pytest.approx(0.1)


def test_polynomial_power_and_constant() -> None:
    squared = ScheduleSection(power=2.0, warmup_steps=0)
    assert learning_rate(5, 10, 1.0, squared) == pytest.approx(0.25)
    constant = ScheduleSection(decay="constant", warmup_steps=0)
    assert learning_rate(9, 10, 1.0, constant) == 1.0


TWO_IMAGE_LAYERS = "model.image_encoder.config.num_hidden_layers=2"


def build_tiny(tmp_path: Path, *settings: str):
    plugins = load_plugins()
    spec = load_spec([str(write_spec(tmp_path)), *settings], plugins)
    return build(spec, world_size=1, load_weights=True)


def test_every_parameter_has_the_rate_of_its_role_and_norms_do_not_decay(tmp_path: Path) -> None:
    parts = build_tiny(tmp_path, "optimizer.multipliers={encoder=1.0, fusion=2.0, head=3.0}")
    optimizer = make_optimizer(parts.network, parts.spec.optimizer)
    set_learning_rates(optimizer, 0.1)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay_of = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    expected = {
        "model.text_encoder": 0.1,
        "model.image_encoder": 0.1,
        "model.text_projection": 0.2,
        "model.image_projection": 0.2,
        "model.token_type_embeddings": 0.2,
        "model.fusion": 0.2,
        "model.pooler": 0.2,
        "objectives.mlm": 0.3,
        "objectives.itm": 0.3,
    }
    seen = set()
    for name, parameter in parts.network.named_parameters():
        prefix = next(prefix for prefix in expected if name.startswith(prefix))
        seen.add(prefix)
        assert rate_of[id(parameter)] == pytest.approx(expected[prefix]), name
        assert decay_of[id(parameter)] == (0.01 if parameter.ndim > 1 else 0.0), name
    assert seen == set(expected)


def test_layer_decay_lowers_the_rate_of_each_layer_below_the_next(tmp_path: Path) -> None:
    settings = ["optimizer.multipliers={encoder=2.0}", "optimizer.layer_decay=0.5"]
    settings += ["model.text_encoder.config.num_hidden_layers=3", TWO_IMAGE_LAYERS]
    parts = build_tiny(tmp_path, *settings)
    optimizer = make_optimizer(parts.network, parts.spec.optimizer)
    rates = set_learning_rates(optimizer, 0.1)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    # Of the text encoder, embeddings and three layers; of the image encoder, embeddings, two layers
    # and the norm. BERT has no norm above its last layer.
    expected = {
        "model.text_encoder.model.embeddings.": 0.2 * 0.5**4,
        "model.text_encoder.model.encoder.layer.0.": 0.2 * 0.5**3,
        "model.text_encoder.model.encoder.layer.1.": 0.2 * 0.5**2,
        "model.text_encoder.model.encoder.layer.2.": 0.2 * 0.5,
        "model.image_encoder.model.embeddings.": 0.2 * 0.5**3,
        "model.image_encoder.model.layernorm.": 0.2,
        "model.fusion.": 0.5,
    }
    seen = set()
    for name, parameter in parts.network.named_parameters():
        for prefix, rate in expected.items():
            if name.startswith(prefix) and parameter.requires_grad:
                seen.add(prefix)
                assert rate_of[id(parameter)] == pytest.approx(rate), name
    assert seen == set(expected)
    # The log shows the highest rate of a role.
    assert rates == pytest.approx({"encoder": 0.2, "fusion": 0.5, "head": 0.5})


def test_layer_decay_over_unknown_depth_is_refused(tmp_path: Path) -> None:
    settings = ["optimizer.layer_decay=0.5", "model.text_encoder.architecture=albert"]
    settings.append(TWO_IMAGE_LAYERS)
    parts = build_tiny(tmp_path, *settings)
    with pytest.raises(SpecError) as caught:
        make_optimizer(parts.network, parts.spec.optimizer)
    assert str(caught.value) == (
        "optimizer.layer_decay: model.text_encoder: its structure has no lists of layers of one "
        "class, expected one; set layer_decay = 1, freeze the encoder, or choose another one"
    )
    frozen = build_tiny(tmp_path, *settings, "model.text_encoder.frozen=true")
    assert make_optimizer(frozen.network, frozen.spec.optimizer)


def test_all_but_the_last_layers_are_frozen(tmp_path: Path) -> None:
    settings = ["model.text_encoder.config.num_hidden_layers=3"]
    settings += ['model.text_encoder.frozen="all but 2"']
    model = build_tiny(tmp_path, *settings).network.train().model
    trained = {n for n, p in model.text_encoder.named_parameters() if p.requires_grad}
    assert {name.removeprefix("model.encoder.layer.")[0] for name in trained} == {"1", "2"}
    modes = {n: m.training for n, m in model.text_encoder.model.named_modules()}
    assert not modes["embeddings.dropout"]
    assert not modes["encoder.layer.0.attention.self"]
    assert modes["encoder.layer.1.attention.self"]
    assert all(p.requires_grad for p in model.image_encoder.model.layernorm.parameters())


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ("all but 99", "frozen: got 'all but 99', but it has 3 layers; expected at most 2"),
        ("all but 3", "frozen: got 'all but 3', but it has 3 layers; expected at most 2"),
        ("most", "frozen: got 'most', expected true, false, or a text like \"all but 2\""),
    ],
)
def test_what_cannot_be_frozen_is_refused(tmp_path: Path, frozen: str, expected: str) -> None:
    settings = ["model.text_encoder.config.num_hidden_layers=3"]
    settings += [f'model.text_encoder.frozen="{frozen}"']
    with pytest.raises(SpecError, match=re.escape(f"model.text_encoder.{expected}")):
        build_tiny(tmp_path, *settings)


def test_a_model_without_anything_to_train_is_refused(tmp_path: Path) -> None:
    parts = build_tiny(tmp_path)
    parts.network.requires_grad_(False)
    with pytest.raises(SpecError, match="nothing is left to train"):
        make_optimizer(parts.network, parts.spec.optimizer)
    parts = build_tiny(
        tmp_path,
        "optimizer.multipliers={encoder=1.0, fusion=0.0, head=0.0}",
        "model.text_encoder.frozen=true",
        "model.image_encoder.frozen=true",
    )
    with pytest.raises(SpecError, match=r"multipliers: 0 for all that is not frozen \(fusion"):
        make_optimizer(parts.network, parts.spec.optimizer)
