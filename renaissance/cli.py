"""The command line: `renaissance` and `python -m renaissance`. `train` may be left out."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from renaissance.commands.data import app as data_app
from renaissance.commands.plugins import app as plugins_app
from renaissance.errors import RenaissanceError, describe

# Longer than a process takes to leave on a busy machine.
PEER_GRACE_SECONDS = 10

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Vision-language encoders: train, check, watch. "
    "`torchrun -m renaissance run.toml` trains; the word `train` may be left out.",
)
app.add_typer(data_app, name="data")
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
    from renaissance.plugins.loading import load_plugins
    from renaissance.spec.read import load_spec

    plugins = load_plugins()
    raise typer.Exit(run(load_spec(spec, plugins), plugins))


@app.command()
def check(
    spec: Spec,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that the run will have.")] = 1,
) -> None:
    """Validate a run spec and say what the run will take, before it starts."""
    from renaissance.commands.check import check_run
    from renaissance.plugins.loading import load_plugins
    from renaissance.spec.read import load_spec

    plugins = load_plugins()
    check_run(load_spec(spec, plugins), plugins, ranks)


@app.command()
def evaluate(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_SPEC... [section.key=value]...",
            help="A run folder, or run specs; then single settings.",
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            help="validate or train: the run's own data; test, or another: that split of the "
            "datasets of [[data.validate]]."
        ),
    ] = "validate",
    checkpoint: Annotated[str, typer.Option(help="best, last, or a checkpoint's folder.")] = "best",
    predictions: Annotated[
        Path | None, typer.Option(help="File for what is predicted, in the task's own format.")
    ] = None,
) -> None:
    """Evaluate a trained run; with torchrun, on several ranks."""
    from renaissance.commands.evaluate import Request, evaluate_run
    from renaissance.plugins.loading import load_plugins

    evaluate_run(Request(run, split, checkpoint, predictions), load_plugins())


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
    # Whatever it is, the user reads one message.
    except Exception as error:
        if debug:
            raise
        _report(error)
        sys.exit(error.exit_code if isinstance(error, RenaissanceError) else 1)


def _report(error: Exception) -> None:
    """Print an error once, though every rank may raise it, or raise what follows from it.

    torchrun ends all ranks as soon as one has left. So the others give rank 0 time to speak, and
    whoever has only lost a peer gives that one time: what is left to say after that, only this
    rank knows (a file that is missing on its machine).
    """
    # It imports torch, which most commands do without.
    from renaissance.engine.distributed import PeerError, is_lost_peer, rank_of_process

    rank = rank_of_process()
    is_peer = isinstance(error, PeerError)
    if is_lost_peer(error):
        time.sleep(2 * PEER_GRACE_SECONDS)
    elif is_peer or rank > 0:
        time.sleep(PEER_GRACE_SECONDS)
    if not is_peer:
        where = f"rank {rank}: " if rank > 0 else ""
        print(f"error: {where}{describe(error)}", file=sys.stderr, flush=True)
