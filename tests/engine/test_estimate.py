"""Operations are attributed to the part of the network that computes them, each once."""

from pathlib import Path

import pytest
import torch
from support.running import TINY, one_tower_spec, write_spec
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from renaissance.engine.estimate import estimate, training_flops
from renaissance.engine.run_parts import RunParts, build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# Matching takes its negatives by the similarity that contrastive learning computes for it.
HARD = "objectives=[{type='itc'}, {type='itm', negatives='hard'}, {type='mlm'}]"


def build_on_meta(spec: Path) -> RunParts:
    plugins = load_plugins()
    with torch.device("meta"):
        return build(load_spec([str(spec), HARD], plugins), 1, load_weights=False)


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
