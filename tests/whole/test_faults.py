"""The commands under benchmarks/faults, with small counts and other seeds than their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


def run_command(*arguments: str) -> str:
    """Run a command under benchmarks/faults, which must succeed; return what it prints."""
    name, *others = arguments
    finished = subprocess.run(
        [sys.executable, str(FAULTS / name), *others],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return f"\n{finished.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            ["damage.py", "--count", "40"],
            [f"{what}: 40 of 40\n" for what in ("checkpoints", "shards", "arrow", "weights")],
        ),
        (["specs.py", "--count", "500"], ["500 of 500\n"]),
        (["kills.py", "--count", "8"], ["kills: 8 of 8, "]),
    ],
)
def test_no_fault_is_silent_or_ends_in_disorder(command: list[str], lines: list[str]) -> None:
    output = run_command(*command, "--seed", "1")
    for line in lines:
        assert f"\n{line}" in output


@pytest.mark.slow
def test_a_family_works_or_is_refused() -> None:
    # The tiny config is against the rules of afmoe.
    output = run_command("families.py", "text", "bert", "gpt2", "afmoe", "vit")
    assert "\n1 work, 3 refused, 0 too large to try\ntext: 4 of 4\n" in output
    output = run_command("families.py", "image", "vit", "dinov2", "bert")
    assert "\n2 work, 1 refused, 0 too large to try\nimage: 3 of 3\n" in output


@pytest.mark.slow
def test_check_and_train_agree() -> None:
    run_command("check_and_train.py", "train.global_batch_size", "run.output_dir", "data.cache")
