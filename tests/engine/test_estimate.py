"""Operations are attributed to the part of the network that computes them, each once."""

from pathlib import Path

import pytest
import torch
from support.running import TINY, one_tower_spec, write_spec
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from renaissance.engine.estimate import estimate, recomputed_flops, training_flops
from renaissance.engine.run_parts import RunParts, build
from renaissance.engine.starting import enable_gradient_checkpointing
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# Matching takes its negatives by the similarity that contrastive learning computes for it.
HARD = "objectives=[{type='itc'}, {type='itm', negatives='hard'}, {type='mlm'}]"


def build_on_meta(spec: Path, *settings: str) -> RunParts:
    plugins = load_plugins()
    with torch.device("meta"):
        return build(load_spec([str(spec), HARD, *settings], plugins), 1, load_weights=False)


@pytest.mark.parametrize("text", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_the_parts_add_up_to_the_whole(tmp_path: Path, text: str) -> None:
    parts = build_on_meta(write_spec(tmp_path, text))
    batch = parts.train[[(0, index) for index in range(8)]]
    methods = {name: set(vars(part)) for name, part in parts.network.model.parts().items()}
    with torch.device("meta"):
        result = estimate(parts, batch, states_per_parameter=2)
        # The network is as it was: nothing of it is counted twice by a second estimate.
        assert estimate(parts, batch, states_per_parameter=2).flops == result.flops
        with FlopCounterMode(display=False) as counter:
            parts.network(batch.to(torch.device("meta")))
    assert {n: set(vars(part)) for n, part in parts.network.model.parts().items()} == methods
    # Each part is rounded down to whole operations per sample.
    difference = counter.get_total_flops() / 8 - sum(result.flops.values())
    assert 0 <= difference < len(result.flops)
    assert result.flops["objective itc"] > 0


def test_states_count_for_trained_parameters(tmp_path: Path) -> None:
    parts = build_on_meta(write_spec(tmp_path))
    batch = parts.train[[(0, 0)]]
    parts.network.model.freeze(parts.network.model.fusion)
    num_trainable = sum(p.numel() for p in parts.network.parameters() if p.requires_grad)
    with torch.device("meta"):
        for num_states in (0, 1, 3):
            memory = estimate(parts, batch, num_states).memory
            assert memory.optimizer == 4 * num_trainable * num_states
            assert memory.gradients == 4 * num_trainable


@pytest.mark.parametrize("frozen", [["text_encoder", "image_encoder"], ["fusion"]])
def test_what_is_frozen_saves_the_operations_that_a_backward_pass_skips(
    tmp_path: Path, frozen: list[str]
) -> None:
    def estimated(*settings: str) -> int:
        with torch.device("meta"):
            parts = build(load_spec([spec, *settings], plugins), 1, load_weights=False)
        batch = parts.train[[(0, index) for index in range(8)]]
        with torch.device("meta"):
            return training_flops(parts.network, estimate(parts, batch, 2).flops)

    def counted(*settings: str) -> int:
        parts = build(load_spec([spec, *settings], plugins), 1, load_weights=True)
        batch = parts.train[[(0, index) for index in range(8)]]
        # Operations of a CPU's fused attention are not counted.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = parts.network.train()(batch).values()
            torch.autograd.backward([output.loss_sum for output in outputs])
        return counter.get_total_flops()

    spec, plugins = str(write_spec(tmp_path)), load_plugins()
    settings = [f"model.{part}.frozen=true" for part in frozen]
    saved = counted(*settings) / counted()
    assert saved < 0.85
    assert estimated(*settings) / estimated() == pytest.approx(saved, rel=0.05)


def test_a_recomputed_layer_keeps_its_input_alone(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)

    def activations(recomputed: str, image_layers: int, fusion_layers: int = 2) -> int:
        layers = f"model.image_encoder.config.num_hidden_layers={image_layers}"
        settings = (layers, f"model.fusion.num_layers={fusion_layers}")
        parts = build_on_meta(spec, f"train.gradient_checkpointing={recomputed}", *settings)
        enable_gradient_checkpointing(parts)
        batch = parts.train[[(0, index) for index in range(8)]]
        with torch.device("meta"):
            return estimate(parts, batch, 2).memory.activations

    parts = build_on_meta(spec)
    num_images = len(parts.train[[(0, index) for index in range(8)]].pixel_values)
    # Of 2 x 2 patches and a class token, 16 units wide.
    states = num_images * 5 * 16 * 4
    assert activations("all", 5) - activations("all", 4) == states
    plain = activations("none", 5) - activations("none", 4)
    assert plain > 8 * states
    # Of two layers more, one is recomputed.
    assert activations("half", 6) - activations("half", 4) == plain + states
    # Of a fusion layer, the states of both streams: of all image tokens of 8 pairs with masked
    # words and 16 to be matched, and of some text tokens.
    added = activations("all", 1, fusion_layers=3) - activations("all", 1)
    num_text_tokens, rest = divmod(added - 24 * 5 * 16 * 4, 16 * 4)
    assert rest == 0
    assert 24 < num_text_tokens <= 24 * 24


def test_recomputing_adds_a_forward_pass_of_what_is_trained(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)

    def added(recomputed: str) -> int:
        parts = build_on_meta(
            spec, f"train.gradient_checkpointing={recomputed}", "model.image_encoder.frozen=true"
        )
        return recomputed_flops(parts, flops)

    flops = dict.fromkeys(("text_encoder", "image_encoder", "fusion", "pooler"), 1000)
    flops |= {f"objective {name}": 1000 for name in ("itc", "itm", "mlm")}
    assert [added(value) for value in ("none", "half", "all")] == [0, 1000, 2000]
