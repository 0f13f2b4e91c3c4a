"""Kill runs at random moments and resume them: all end as one that was never killed, bit by bit.

    python benchmarks/faults/kills.py [--count 200] [--seed 0]

A run is killed with SIGKILL, started again, killed again, and so on until it ends. Its checkpoints,
the link to the best one and metrics.jsonl are then those of the undisturbed run.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.running import TINY, run_here, write_spec

SETTINGS = [
    "checkpoint.every_steps=2",
    'monitors=[{type = "jsonl"}]',
    "evaluate.num_panel_images=0",
]
# More often killed than that, a run is left to end.
MAX_KILLS = 8


def start(spec: Path, output: Path) -> int:
    """Train in a process of its own, forked with all libraries loaded; return its id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with open(output.parent / "log", "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                code = run_here(spec, output, *SETTINGS)
        finally:
            os._exit(code)
    return process


def killed(process: int, seconds: float | None) -> bool:
    """Wait for a process, and kill it after some seconds; return whether that came in time.

    Raises:
        RuntimeError: If it failed by itself.
    """
    end = time.monotonic() + (float("inf") if seconds is None else seconds)
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"the run ended with status {status}")
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return status == signal.SIGKILL


def contents(run: Path) -> dict[str, object]:
    """Return what a run leaves, by name."""
    found: dict[str, object] = {"metrics.jsonl": (run / "metrics.jsonl").read_text()}
    for path in sorted((run / "checkpoints").iterdir()):
        if path.is_symlink():
            found[path.name] = str(path.readlink())
        elif path.is_dir():
            for file in path.glob("*.safetensors"):
                tensors = load_file(file)
                values = {name: tensors[name].numpy().tobytes() for name in sorted(tensors)}
                found[f"{path.name}/{file.name}"] = values
            found[f"{path.name}/state.json"] = (path / "state.json").read_text()
        else:
            found[path.name] = path.read_text()
    return found


def main() -> None:
    """Kill, resume, compare, and print how many kills changed nothing in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random_ = random.Random(options.seed)
    kills = survived = chains = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = write_spec(folder, TINY)
        began = time.monotonic()
        killed(start(spec, folder / "undisturbed"), None)
        longest = time.monotonic() - began
        expected = contents(folder / "undisturbed/tiny")
        while kills < options.count:
            output = folder / f"chain{chains}"
            chains += 1
            before, left = kills, min(MAX_KILLS, options.count - kills)
            try:
                while True:
                    began = time.monotonic()
                    seconds = random_.uniform(0, longest) if left else None
                    if not killed(start(spec, output), seconds):
                        break
                    kills, left = kills + 1, left - 1
                if kills == before:
                    # The machine is less busy than it was: this is how long a run takes now.
                    longest = time.monotonic() - began
                actual = contents(output / "tiny")
            # Whatever went wrong: the chain did not end as it should.
            except Exception as error:
                print(f"  chain {chains}: {error}: {(folder / 'log').read_text()[-300:]}")
                continue
            differing = [
                name for name in {**expected, **actual} if actual.get(name) != expected.get(name)
            ]
            survived += 0 if differing else kills - before
            if differing:
                print(f"  chain {chains} differs in {', '.join(differing)}", flush=True)
    print(f"kills: {survived} of {kills}, in {chains} chains of runs")
    sys.exit(survived != kills)


if __name__ == "__main__":
    main()
