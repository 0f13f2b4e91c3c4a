"""What a command costs before it does any work: CPU seconds of whole processes.

    python benchmarks/startup.py [--repeats 3]

The floor is importing only torch and transformers. Each figure is the lowest of the repeats.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RENAISSANCE = [sys.executable, "-m", "renaissance"]
SHAPES = str(ROOT / "recipes" / "shapes.toml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    commands = {
        "help": [*RENAISSANCE, "--help"],
        "data_help": [*RENAISSANCE, "data", "prepare", "--help"],
        "schema": [*RENAISSANCE, "schema"],
        "typo": [*RENAISSANCE, "check", SHAPES, "train.max_stpes=5"],
        "plugins": [*RENAISSANCE, "plugins"],
        "check": [*RENAISSANCE, "check", SHAPES],
        # Two model classes, which `check` must build: their import alone takes as long again.
        "models": [sys.executable, "-c", "from transformers import BertModel, ViTModel"],
        "floor": [sys.executable, "-c", "import torch, transformers"],
    }
    seconds = {name: measure(command, repeats) for name, command in commands.items()}
    for name, command in commands.items():
        print(f"{name:10} {seconds[name]:6.2f} s  {' '.join(command[1:])}")
    for name in ("plugins", "check", "models"):
        print(f"{name:10} {seconds[name] / seconds['floor']:6.2f} x floor")
    print(
        " ".join(f"{name}_s={seconds[name]:.2f}" for name in ("help", "plugins", "check", "floor"))
    )


def measure(command: list[str], repeats: int) -> float:
    """Return the CPU seconds of a command, user and system, in the fastest of several runs."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            # One thread: threads that spin while they wait would count as work.
            subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            figures.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(figures)


if __name__ == "__main__":
    main()
