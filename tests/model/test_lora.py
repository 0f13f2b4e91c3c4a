"""Adapters: what is trained, merged, started from, and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import one_tower_spec, run_here, weights, write_spec
from support.tiny_models import save_model

from renaissance.engine.run_parts import build
from renaissance.inference.loading import load
from renaissance.model.lora import merge_adapters
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

ADAPT = "model.text_encoder.adapt={type='lora', rank=2, alpha=6}"
STEPS = ["train.max_steps=3", "evaluate.every_steps=3", "optimizer.learning_rate=0.01"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    assert run_here(write_spec(folder), folder, ADAPT, *STEPS) == 0
    return folder / "tiny"


def built(run: Path) -> Any:
    return build(load_spec([str(run / "spec.toml")], load_plugins()), 1, load_weights=False)


def test_only_what_is_added_to_linear_layers_is_trained(run: Path) -> None:
    encoder = built(run).network.model.text_encoder
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    # Two matrices for query, key, value, the output, and the two layers of the feed-forward part.
    assert sum("encoder.layer.0" in name for name in trained) == 12
    name = "model.encoder.layer.0.intermediate.dense"
    assert trained[f"{name}.lora_A.default.weight"].shape == (2, 16)
    assert trained[f"{name}.lora_B.default.weight"].shape == (32, 2)


def test_merged_equals_unmerged(run: Path) -> None:
    network = built(run).network.eval()
    network.load_state_dict(weights(run, 3))
    ids = torch.arange(5, 13)[None]
    mask = torch.ones_like(ids).bool()
    encoder = network.model.text_encoder
    with torch.no_grad():
        unmerged = encoder.encode_text(ids, mask).hidden_states
        merge_adapters(network.model)
        merged = encoder.encode_text(ids, mask).hidden_states
        loaded = load(run, checkpoint="last").network
        used = loaded.model.encode_text(ids, mask).hidden_states
    torch.testing.assert_close(merged, unmerged, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(used, unmerged, atol=1e-5, rtol=1e-5)
    # By hand: 6 / 2 times the product is added.
    before, layer = weights(run, 3), "model.text_encoder.model.encoder.layer.0.output.dense"
    up, down = (before[f"{layer}.lora_{part}.default.weight"] for part in "BA")
    assert up.abs().max() > 0
    expected = before[f"{layer}.base_layer.weight"] + 3 * up @ down
    torch.testing.assert_close(loaded.state_dict()[f"{layer}.weight"], expected)
    assert not any("lora" in name for name in loaded.state_dict())


def test_it_starts_from_a_run_without_and_another_from_it(run: Path, tmp_path: Path) -> None:
    still = ["train.max_steps=1", "optimizer.learning_rate=1e-12", "schedule.warmup_steps=0"]
    for name, start, more in (
        ("plain", run, []),
        ("adapted", tmp_path / "plain" / "tiny", [ADAPT]),
    ):
        settings = [f"model.init_from={start}", *still, *more]
        assert run_here(write_spec(tmp_path), tmp_path / name, *settings) == 0
    expected = load(run, checkpoint="last").network.state_dict()
    for name in ("plain", "adapted"):
        found = load(tmp_path / name / "tiny", checkpoint="last").network.state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, msg=f"{name}: {key}")


def test_what_cannot_be_adapted_is_refused(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    assert_refused(
        renaissance("check", spec, ADAPT, "model.text_encoder.frozen=true"),
        "model.text_encoder.adapt: freezes the encoder's own parameters already; remove "
        "text_encoder.frozen",
    )
    save_model(tmp_path / "resnet", "resnet")
    image = "{type='hf-image', checkpoint='%s', adapt={type='lora'}}" % (tmp_path / "resnet")
    assert_refused(
        renaissance("check", spec, f"model.image_encoder={image}"),
        "model.image_encoder.adapt: the encoder has no linear layers, which LoRA adapts; remove",
    )
    one = str(write_spec(tmp_path / "one", one_tower_spec()))
    assert_refused(
        renaissance("check", one, "model.encoder.adapt={type='lora'}"),
        "model.encoder.adapt: would freeze the new embeddings of the joint encoder, which start",
    )


def test_without_peft_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    assert_refused(
        renaissance("check", str(write_spec(tmp_path)), ADAPT),
        "model.text_encoder.adapt: needs the package peft, which is not installed",
        "install it: pip install peft",
    )
