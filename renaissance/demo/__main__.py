"""`python -m renaissance.demo`, which is what `make demo` runs."""

import subprocess
import sys
from pathlib import Path

import typer

from renaissance.builtin.datasets.shapes import COLOURS, SHAPES
from renaissance.commands.output import print_figures
from renaissance.demo.blank import BlankImages, score
from renaissance.elastic import num_gpus
from renaissance.engine.checkpoint import load_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

MAX_RANKS = 2


def choose_num_ranks() -> int:
    """Return one rank per GPU, at most two; without a GPU two, which share the CPU."""
    return min(num_gpus(), MAX_RANKS) or MAX_RANKS


def main() -> None:
    """Train on several ranks, then compare with a control that sees blank images."""
    num_ranks = choose_num_ranks()
    spec_file = Path(__file__).parent / "run.toml"
    settings = sys.argv[1:]
    command = ["renaissance", "train", "--ranks", str(num_ranks), str(spec_file), *settings]
    typer.echo("$ " + " ".join(command))
    finished = subprocess.run([sys.executable, "-m", *command], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)

    plugins = load_plugins()
    spec = load_spec([str(spec_file), *settings], plugins)
    parts = build(spec, world_size=1, load_weights=False)
    checkpoint = RunFolder(spec.folder).find(prefer_best=False)
    load_checkpoint(checkpoint, parts.network, optimizer=None)
    validate = parts.require_validate()
    groups = {"masked colour words": COLOURS, "masked shape words": SHAPES}
    ranks = Ranks("cpu")
    with_images = score(parts, validate, ranks, groups)
    blanked = score(parts, BlankImages.of(validate), ranks, groups)

    rows = [
        (name, f"{with_images.words[name]:.3f}", f"{blanked.words[name]:.3f}") for name in groups
    ]
    rows.append(("matching (itm)", f"{with_images.matching:.3f}", f"{blanked.matching:.3f}"))
    print_figures(("share of right answers, validation", "with the image", "image blanked"), rows)
    typer.echo(f"watch:  tensorboard --logdir {spec.run.output_dir}")
    typer.echo(
        f"resume: the same command again continues from {spec.folder}/checkpoints; "
        f"train longer: {' '.join(command)} train.max_steps={parts.total_steps * 2}"
    )


if __name__ == "__main__":
    main()
