"""What a training step asks of a GPU, counted by benchmarks/count.py: no figure may rise."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import attrs
import pytest


def load(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = spec_from_file_location(f"benchmarks_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Each is a little above what the command printed when the bound was written down.
BOUNDS = {
    "base": {
        "gflop_per_sample": 254.0,
        # Taking padding out and putting it back adds 104 kernels, for 11 GFLOP per sample;
        # adding up the gradients of repeated rows in a fixed order adds 12.
        "kernels": 2315,
        "mb_per_sample": 1235,
        # Word embeddings, from a table in fp32.
        "activation_casts": 1,
        "weight_casts": 0,
        "weight_copies": 1,
        "mask_conversions": 2,
        "host_waits": 0,
    },
    "small": {
        "gflop_per_sample": 25.9,
        "kernels": 2210,
        "mb_per_sample": 375,
        "activation_casts": 1,
        "weight_casts": 0,
        "weight_copies": 1,
        "mask_conversions": 2,
        "host_waits": 0,
    },
}


BOUNDS_IF_MASKED = {"base": 214.5, "small": 21.1}


@pytest.mark.parametrize("model", BOUNDS)
def test_no_figure_of_a_step_rises(model: str) -> None:
    count = load("count")
    network = count.build_network(model)
    figures = attrs.asdict(count.count(network, count.make_batch(256)))
    too_high = {
        name: (value, BOUNDS[model][name])
        for name, value in figures.items()
        if value > BOUNDS[model][name]
    }
    assert not too_high, "figure: (actual, bound)"
    # True pairs of matching are those of masked language modelling: a quarter less is fused.
    masked = count.count(network, count.make_batch(256, matched="masked"))
    assert masked.gflop_per_sample < BOUNDS_IF_MASKED[model]
