"""The table of benchmarks/scaling.py against other arithmetic, and what it makes of times."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from support.running import environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Of one sample, and of the gradients.
FLOPS, GRADIENTS = 250e9, 1_340_000_000


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("scaling")


def test_a_larger_batch_hides_the_exchange(scaling: ModuleType) -> None:
    options = scaling.parser().parse_args(["table"])
    rows = {row.gpus: row for row in scaling.rows(options, FLOPS, GRADIENTS)}
    assert list(rows) == [1, 8, 16, 32, 64, 128, 256, 512, 1024]
    compute = 256 * 250e9 / 300e12
    for row in rows.values():
        assert (row.batch, row.time.compute) == (256, pytest.approx(compute))
    # Between the GPUs of a node, 300 GB/s: twice all bytes but a 1,024th.
    assert rows[1024].time.exchange == pytest.approx(2 * 1.34 / 300, rel=2e-3)
    assert rows[1024].efficiency > 0.99
    assert rows[1024].rate == pytest.approx(1024 * 256 / compute, rel=0.01)
    # 25 Gbit/s: backward hides 2/3 of the compute, and the rest is awaited.
    slow = scaling.parser().parse_args(["table", "--network", "25"])
    last = list(scaling.rows(slow, FLOPS, GRADIENTS))[-1]
    expected = 2 * 1023 / 1024 * 1.34 / 3.125 - compute * 2 / 3
    assert last.seconds == pytest.approx(compute + expected)


def test_a_given_global_batch_is_divided(scaling: ModuleType) -> None:
    command = ["table", "--global-batch", "32768", "--hop", "50"]
    options = scaling.parser().parse_args(command)
    rows = {row.gpus: row for row in scaling.rows(options, FLOPS, GRADIENTS)}
    assert [rows[n].batch for n in (1, 8, 128, 1024)] == [32768, 4096, 256, 32]
    # 128 micro-batches, 40 ms each for the host, which has them ready before the GPU is.
    assert rows[1].host == pytest.approx(128 * 0.04)
    assert rows[1].seconds == pytest.approx(32768 * 250e9 / 300e12)
    # 2,046 hops of 50 us, one after the other, and 40 ms: longer than 32 samples take.
    assert rows[1024].seconds == pytest.approx(2046 * 50e-6 + 0.04)
    assert rows[1024].efficiency == pytest.approx(32 * 250e9 / 300e12 / rows[1024].seconds)


def test_figures_of_measured_times(scaling: ModuleType) -> None:
    # Two ranks, of which one is slower; 100 MB are exchanged in 0.1 s.
    one = scaling.Times([0.5, 0.7], [1.0, 1.0], [1.2, 1.2], [0.1, 0.1], [0.001, 0.001])
    two = scaling.Times([], [1.2, 1.4], [1.25, 1.25], [0.1, 0.1], [0.001, 0.001])
    figures = scaling.figures_of([one, two], 100_000_000)
    assert figures["together_ms"] == pytest.approx(1100)
    assert figures["exchanged_ms"] == pytest.approx(1250)
    assert figures["link_gb_s"] == pytest.approx(1.0)
    assert figures["contention"] == pytest.approx(0.5 / 1.1)
    assert figures["efficiency"] == pytest.approx(1.1 / 1.25)
    assert figures["simulated"] == pytest.approx(1.1 / (1.1 + 0.1))
    # Backward hides all but the last bucket, of 25 MiB.
    assert figures["hidden"] == pytest.approx(1.1 / (1.1 + 25 * 2**20 / 1e9))
    assert figures["ratio"] == pytest.approx(figures["efficiency"] / figures["simulated"])


@pytest.mark.slow
def test_two_ranks_are_measured() -> None:
    command = ["measure", "--tiny", "--ranks", "2", "--rounds", "2", "--batch", "2"]
    printed = subprocess.check_output(
        [sys.executable, str(BENCHMARKS / "scaling.py"), *command], env=environment(), text=True
    )
    figures = dict(pair.split("=") for pair in printed.splitlines()[-1].split())
    names = ("contention", "efficiency", "simulated", "hidden", "ratio")
    assert list(figures) == [f"ranks2_{name}" for name in names]
    assert all(float(value) > 0 for value in figures.values())
