"""The commands under benchmarks/faults, with small counts and other seeds than their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            ["damage.py", "--count", "40"],
            ["checkpoints: 40 of 40\n", "arrow: 40 of 40\n", "weights: 40 of 40\n"],
        ),
        (["specs.py", "--count", "500"], ["500 of 500\n"]),
        (["kills.py", "--count", "8"], ["kills: 8 of 8, "]),
    ],
)
def test_no_fault_is_silent_or_ends_in_disorder(command: list[str], lines: list[str]) -> None:
    name, *arguments = command
    finished = subprocess.run(
        [sys.executable, str(FAULTS / name), *arguments, "--seed", "1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    for line in lines:
        assert f"\n{line}" in f"\n{finished.stdout}"
