"""Run commands in tests, one after the other, on ranks that are started once, two of them or more.

Run under torchrun, this file is one rank.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from renaissance.cli import app
from renaissance.engine.distributed import Ranks
from support.drawn_parameters import initialization_by_numpy
from support.running import environment

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def on_two_ranks(folder: Path, commands: Sequence[Sequence[str]]) -> str:
    """Run commands, the arguments of `renaissance` each time; return what was printed."""
    return on_ranks(2, folder, commands)


def on_ranks(
    num_ranks: int, folder: Path, commands: Sequence[Sequence[str]], timeout: float = 300
) -> str:
    """Run commands on some number of ranks."""
    path = folder / "commands.json"
    path.write_text(json.dumps([list(command) for command in commands]))
    finished = subprocess.run(
        [sys.executable, *LAUNCHER[:-1], str(num_ranks), __file__, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-9000:]
    return finished.stdout


def results(run: Path, split: str = "validate") -> dict[str, Any]:
    """Return what a run's results.json says of a split."""
    found: dict[str, Any] = json.loads((run / "results.json").read_text())[split]
    return found


if __name__ == "__main__":
    ranks = Ranks("cpu")
    # A process group can be made only once with the same launcher.
    with mock.patch.object(Ranks, "close"), initialization_by_numpy():
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            app(arguments, standalone_mode=False)
    # No rank leaves while another still reads from it.
    ranks.barrier()
    ranks.close()
    # A thread of the group that outlives it may abort the interpreter while that is leaving.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads
