"""The command line: `renaissance` and `python -m renaissance`. `train` may be left out."""

import os
import sys
import time
from typing import Annotated

import typer

from renaissance.commands.plugins import app as plugins_app
from renaissance.engine.distributed import PeerError, rank_of_process
from renaissance.errors import RenaissanceError

PEER_GRACE_SECONDS = 5

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Vision-language encoders: train, check, watch. "
    "`torchrun -m renaissance run.toml` trains; the word `train` may be left out.",
)
app.add_typer(plugins_app, name="plugins")

Spec = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC.toml... [section.key=value]...",
        help="Run specs (later ones win), then single settings.",
    ),
]


@app.command()
def train(spec: Spec) -> None:
    """Train a run; the same command again resumes it."""
    from renaissance.engine.train import train as run
    from renaissance.plugins import load_plugins
    from renaissance.spec.read import load_spec

    plugins = load_plugins()
    raise typer.Exit(run(load_spec(spec, plugins), plugins))


@app.command()
def check(spec: Spec) -> None:
    """Validate a run spec and say what the run will take, before it starts."""
    from renaissance.commands.check import check_run
    from renaissance.plugins import load_plugins
    from renaissance.spec.read import load_spec

    plugins = load_plugins()
    check_run(load_spec(spec, plugins), plugins)


def main() -> None:
    """Run the command line; exit codes: 0, 1 (failed while running), 2 (nothing was started)."""
    # One fork a loader worker: the tokenizer's own threads would only warn about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        arguments.insert(0, "train")
    try:
        app(arguments, prog_name="renaissance")
    except RenaissanceError as error:
        if debug:
            raise
        _report(error)
        sys.exit(error.exit_code)
    # Any other failure is our defect or a component's: one line, and how to see the rest.
    except Exception as error:
        if debug:
            raise
        print(
            f"error: rank {rank_of_process()}: {type(error).__name__}: {error}\n"
            "(the same command with --debug shows where)",
            file=sys.stderr,
        )
        sys.exit(1)


def _report(error: RenaissanceError) -> None:
    """Print an error once, by rank 0 where it is the same on every rank.

    torchrun ends all ranks as soon as one has left, so the others give rank 0 time to speak. What
    only this rank has seen (a file that is missing on its machine) it says after that.
    """
    is_peer = isinstance(error, PeerError)
    if is_peer or rank_of_process() > 0:
        time.sleep(PEER_GRACE_SECONDS)
    if not is_peer:
        print(f"error: {error}", file=sys.stderr, flush=True)
