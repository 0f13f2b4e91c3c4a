"""Compiled layers: no graph breaks, few graphs, and the same results."""

from pathlib import Path

import attrs
import pytest
import torch
from support.running import TINY, one_tower_spec, write_spec
from torch._dynamo.utils import counters

from renaissance import Pairs
from renaissance.data.micro_batch import map_leaves, without_padding
from renaissance.engine.compiling import compile_layers
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import training_kernels
from renaissance.engine.run_parts import RunParts, build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# In hidden states and in attention.
WITH_DROPOUT = TINY.replace("dropout = 0.0", "dropout = 0.1")
LENGTHS = (16, 13, 24, 14, 21)


def built(folder: Path, text: str) -> RunParts:
    spec = write_spec(folder, text)
    return build(load_spec([str(spec)], load_plugins()), 1, load_weights=True)


def run(
    network: MultiObjective, parts: RunParts, length: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of a micro-batch whose texts have a length."""
    batch = parts.train[[(0, index) for index in range(6)]]
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(1).max() <= length
    fill = (0, length - batch.input_ids.shape[1])
    padded = attrs.evolve(
        map_leaves(Pairs, lambda pairs: attrs.evolve(pairs, text_index=None), batch),
        input_ids=torch.nn.functional.pad(batch.input_ids, fill),
        attention_mask=torch.nn.functional.pad(batch.attention_mask, fill),
        packing=None,
    )
    batch = without_padding(padded, batch.attention_mask.sum(1).tolist())
    torch.manual_seed(0)
    network.zero_grad()
    with training_kernels(torch.device("cpu")):
        outputs = network(batch)
        loss = torch.stack([output.loss_sum for output in outputs.values()]).sum()
        loss.backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize(
    ("text", "num_layers"),
    [
        pytest.param(WITH_DROPOUT, 4, id="two-tower"),
        pytest.param(one_tower_spec(), 2, id="one-tower", marks=pytest.mark.slow),
    ],
)
def test_layers_compile_without_a_break_for_any_text_length(
    tmp_path: Path, text: str, num_layers: int
) -> None:
    parts, eager = built(tmp_path, text), built(tmp_path, text)
    torch._dynamo.reset()
    counters.clear()
    assert compile_layers(parts.network.model.parts().values(), "aot_eager") == num_layers
    num_graphs = []
    for length in LENGTHS:
        loss, gradients = run(parts.network.train(), parts, length)
        expected, expected_gradients = run(eager.network.train(), eager, length)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)
        num_graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"], dict(counters["graph_break"])
    # With the second length, it becomes a variable; longer texts are packed, in one more shape.
    assert num_graphs[2:] == [num_graphs[-1]] * 3
    assert num_graphs[-1] <= 11
