"""`python -m renaissance.demo`, which is what `make demo` runs."""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from renaissance.builtin.datasets.shapes import COLOURS, SHAPES
from renaissance.demo.blank import BlankImages, score
from renaissance.engine.checkpoint import find_checkpoint, load_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

NUM_RANKS = 2


def main() -> None:
    """Train with torchrun on two ranks, then compare with a control without sight."""
    console = Console(highlight=False, soft_wrap=True)
    spec_file = Path(__file__).parent / "run.toml"
    settings = sys.argv[1:]
    command = ["torchrun", "--nproc-per-node", str(NUM_RANKS), "-m", "renaissance", str(spec_file)]
    command += settings
    console.print("$ " + " ".join(command), markup=False)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *command[1:]]
    threads = max(1, (os.cpu_count() or 1) // NUM_RANKS)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    finished = subprocess.run(torchrun, env=environment, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)

    plugins = load_plugins()
    spec = load_spec([str(spec_file), *settings], plugins)
    parts = build(spec, plugins, world_size=1, load_weights=False)
    load_checkpoint(find_checkpoint(spec.folder, prefer_best=False), parts.network, optimizer=None)
    assert parts.validate is not None
    groups = {"masked colour words": COLOURS, "masked shape words": SHAPES}
    ranks = Ranks("cpu")
    seeing = score(parts, parts.validate, ranks, groups)
    blind = score(parts, BlankImages.of(parts.validate), ranks, groups)

    table = Table("share of right answers, validation", box=None)
    table.add_column("with the image", justify="right")
    table.add_column("image blanked", justify="right")
    for name in groups:
        table.add_row(name, f"{seeing.words[name]:.3f}", f"{blind.words[name]:.3f}")
    table.add_row("matching (itm)", f"{seeing.matching:.3f}", f"{blind.matching:.3f}")
    console.print(table)
    console.print(f"watch:  tensorboard --logdir {spec.run.output_dir}", markup=False)
    console.print(
        f"resume: the same command again goes on from {spec.folder}/checkpoints; "
        f"further: {' '.join(command)} train.max_steps={parts.total_steps * 2}",
        markup=False,
    )


if __name__ == "__main__":
    main()
