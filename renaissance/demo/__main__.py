"""`python -m renaissance.demo`, which is what `make demo` runs."""

import subprocess
import sys
from pathlib import Path

import typer

from renaissance.builtin.datasets.shapes import COLOURS, SHAPES
from renaissance.commands.output import print_figures
from renaissance.demo.scores import Score, score
from renaissance.elastic import num_gpus
from renaissance.engine.checkpoint import load_checkpoint
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts, build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

MAX_RANKS = 2
SPEC = Path(__file__).parent / "run.toml"
# The control learns how common each word is, which takes fewer steps.
BLIND = ("run.name=demo-blind", "data.train.0.blank=true", "data.validate.0.blank=true")
BLIND_STEPS = "train.max_steps=400"
GROUPS = {"masked colour words": COLOURS, "masked shape words": SHAPES}
MATCHING = "matching (itm)"


def choose_num_ranks() -> int:
    """Return one rank per GPU, at most two; without a GPU two, which share the CPU."""
    return min(num_gpus(), MAX_RANKS) or MAX_RANKS


def main() -> None:
    """Train with and without pictures, and compare."""
    settings = sys.argv[1:]
    command = _train(settings)
    _train([BLIND_STEPS, *settings, *BLIND])
    parts, sighted = _measure(settings)
    _, blind = _measure([BLIND_STEPS, *settings, *BLIND])
    print_figures(
        ("share of right answers, validation", "with images", "trained blind", "commonest answer"),
        [
            (name, f"{seen.share:.3f}", f"{blind[name].share:.3f}", f"{seen.prior:.3f}")
            for name, seen in sighted.items()
        ],
    )
    typer.echo(f"watch:  tensorboard --logdir {parts.spec.run.output_dir}")
    typer.echo(
        f"resume: the same command again continues from {parts.spec.folder}/checkpoints; "
        f"train longer: {' '.join(command)} train.max_steps={parts.total_steps * 2}"
    )


def _train(settings: list[str]) -> list[str]:
    """Train, and return the command; if the run fails, the demo ends."""
    num_ranks = choose_num_ranks()
    command = ["renaissance", "train", "--ranks", str(num_ranks), str(SPEC), *settings]
    typer.echo("$ " + " ".join(command))
    finished = subprocess.run([sys.executable, "-m", *command], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    return command


def _measure(settings: list[str]) -> tuple[RunParts, dict[str, Score]]:
    """Score the last checkpoint of a run on its validation samples."""
    spec = load_spec([str(SPEC), *settings], load_plugins())
    parts = build(spec, world_size=1, load_weights=False)
    checkpoint = RunFolder(spec.folder).find(prefer_best=False)
    load_checkpoint(checkpoint, parts.network, optimizer=None)
    return parts, score(parts, parts.require_validate(), GROUPS, MATCHING)


if __name__ == "__main__":
    main()
