"""The benchmarks that need a GPU run without one, in miniature."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_section_runs_in_miniature(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, str(GPU), "--device", "cpu", "--tiny"],
        env={**environment(), "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert not [key for key in figures if key.endswith("_failed")], finished.stdout
    *sections, last = finished.stdout.splitlines()
    names = ["ceilings", "base", "plain", "small", "checkpoint", "loader", "loop", "attention"]
    assert [line.partition(":")[0] for line in sections] == [*names, "base384"]
    assert dict(pair.split("=") for pair in last.split()).keys() == figures.keys()
    for key in ("base_b4_eager_samples_s", "plain_small_b1_samples_s", "loader_images_s"):
        assert figures[key] > 0
    assert 0 < figures["loop_own_share"] < 1


@pytest.mark.slow
def test_a_section_that_fails_or_takes_too_long_leaves_the_rest(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import gpu, time\n"
        "gpu.Bench.ceilings = lambda self: 1 / 0\n"
        "gpu.Bench.attention = lambda self: time.sleep(60)\n"
        "sections = gpu.Bench.sections\n"
        "gpu.Bench.sections = lambda self: [(n, 1, f) for n, _, f in sections(self)]\n"
        "gpu.Bench.checkpoint = lambda self: self.figures.update(reached=True)\n"
        "gpu.main()"
    )
    options = ["--device", "cpu", "--tiny", "--only", "ceilings", "attention", "checkpoint"]
    finished = subprocess.run(
        [sys.executable, "-c", code, str(GPU.parent), *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    last = finished.stdout.splitlines()[-1].split()
    expected = {"ceilings_failed=ZeroDivisionError", "attention_failed=TimeoutError"}
    assert expected | {"reached=True"} <= set(last)
