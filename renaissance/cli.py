"""The command line: `renaissance` and `python -m renaissance`. `train` may be left out."""

import json
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

import renaissance
from renaissance.commands.arguments import RankCount, Spec, TrustPlugins, debug_flag
from renaissance.commands.data import app as data_app
from renaissance.commands.plugins import app as plugins_app
from renaissance.commands.recipes import app as recipes_app
from renaissance.commands.study import app as study_app
from renaissance.commands.study import compare
from renaissance.commands.use import app as use_app
from renaissance.errors import (
    PeerError,
    SpecError,
    describe,
    did_you_mean,
    exit_code_of,
    quoted,
)
from renaissance.launch import is_lost_peer, name_of_process, rank_of_process, tell_launcher
from renaissance.plugins.loading import load_plugins
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.layers import Layers
from renaissance.spec.read import choose_components, read_layers
from renaissance.spec.recipes import is_recipe
from renaissance.spec.structure import check_sections

# Longer than a process takes to exit on a busy machine.
PEER_GRACE_SECONDS = 10

# In place of what gloo and NCCL say of it at length.
LOST_PEER = (
    "another rank is gone, and has not said why; if nothing above does, see the log of its "
    "machine. The same command resumes from the last checkpoint"
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(plugins_app, name="plugins")
app.add_typer(use_app)
app.add_typer(recipes_app, name="recipes")
app.add_typer(study_app, name="study")
app.command()(compare)


@app.command()
def train(spec: Spec, trust_plugins: TrustPlugins = False, ranks: RankCount = None) -> None:
    """Train a run; the same command again resumes it."""
    layers = _read(spec)
    plugins = load_plugins()
    chosen = choose_components(layers, plugins, trust_plugins)
    if ranks is not None:
        from renaissance.elastic import AUTO, number_of_ranks, start_ranks

        num_ranks = number_of_ranks(ranks, chosen.train.device)
        if ranks == AUTO:
            num_gpus, num_ranks = num_ranks, BatchPlan.most_ranks(chosen.train, num_ranks)
            if num_ranks < num_gpus:
                typer.echo(
                    f"{num_ranks} of {num_gpus} GPUs are used: more cannot share "
                    f"train.global_batch_size = {chosen.train.global_batch_size} equally"
                )
        # A fault that every rank would find.
        BatchPlan.of(chosen.train, num_ranks)
        trust = ["--trust-plugins"] if trust_plugins else []
        raise typer.Exit(start_ranks(["train", *spec, *trust, *debug_flag()], num_ranks))
    from renaissance.engine.train import train as run

    raise typer.Exit(run(chosen, plugins))


@app.command()
def check(
    spec: Spec,
    ranks: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Processes that the run will have; auto: as many as train --ranks auto starts "
            "here.",
        ),
    ] = "1",
    trust_plugins: TrustPlugins = False,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="In place of --ranks: nodes of the run, to estimate its steps."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="With --nodes: GPUs per node.")] = 8,
    network: Annotated[
        float, typer.Option(min=0.001, help="With --nodes: Gbit/s of a node's network.")
    ] = 100,
    link: Annotated[
        float, typer.Option(min=0.001, help="With --nodes: Gbit/s between the GPUs of a node.")
    ] = 2400,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With --nodes: TFLOP/s that a GPU reaches in training; measured here if absent.",
        ),
    ] = None,
) -> None:
    """Validate a run spec, and estimate what the run will take."""
    layers = _read(spec)
    from renaissance.commands.check import check_run
    from renaissance.commands.cluster import ClusterOptions
    from renaissance.elastic import number_of_ranks

    chosen = choose_components(layers, load_plugins(), trust_plugins)
    if nodes is None:
        check_run(chosen, number_of_ranks(ranks, chosen.train.device))
    elif ranks != "1":
        raise SpecError(f"--ranks: got {ranks}, but --nodes x --gpus is the number of ranks")
    else:
        cluster = ClusterOptions(nodes, gpus, network, link, tflops)
        check_run(chosen, nodes * gpus, cluster)


@app.command()
def evaluate(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_SPEC... [section.key=value]...",
            help="A run folder, or run specs; then individual settings.",
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            help="validate or train: the data of the run; anything else, such as test: that split "
            "of the datasets in data.validate."
        ),
    ] = "validate",
    checkpoint: Annotated[str, typer.Option(help="best, last, or a checkpoint's folder.")] = "best",
    predictions: Annotated[
        Path | None, typer.Option(help="File to write predictions to, in the task's format.")
    ] = None,
    trust_plugins: TrustPlugins = False,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Measure again with images blanked, with other images, and with texts blanked.",
        ),
    ] = False,
    ranks: RankCount = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Score a diagnostic suite instead of a split: winoground, sugar-crepe, aro, "
            "vl-checklist or valse."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the suite's files, as its authors publish it.")
    ] = None,
) -> None:
    """Evaluate a trained run."""
    if suite is not None or data is not None:
        _evaluate_suite(run, suite, data, checkpoint, trust_plugins, ranks)
        return
    from renaissance.commands.evaluate import EvaluationRequest, evaluate_run, read_spec

    request = EvaluationRequest(run, split, checkpoint, predictions, trust_plugins, controls)
    plugins = load_plugins()
    if ranks is None:
        evaluate_run(request, plugins)
        return
    from renaissance.elastic import number_of_ranks, start_ranks

    num_ranks = number_of_ranks(ranks, read_spec(request, plugins).train.device)
    raise typer.Exit(start_ranks([*request.command(), *debug_flag()], num_ranks))


def _evaluate_suite(
    run: list[str],
    suite: str | None,
    data: Path | None,
    checkpoint: str,
    trust_plugins: bool,
    ranks: str | None,
) -> None:
    if suite is None or data is None:
        raise SpecError("--suite NAME and --data FOLDER belong together; give both")
    if ranks is not None:
        raise SpecError("--suite: runs in one process; leave out --ranks")
    from renaissance.commands.suite import SuiteRequest, evaluate_suite

    evaluate_suite(SuiteRequest(run, suite, data, checkpoint, trust_plugins))


@app.command()
def schema(
    components: Annotated[
        bool,
        typer.Option("--components", help="List the installed components and their options too."),
    ] = False,
) -> None:
    """Print the run spec as a JSON schema, for editors: > run.schema.json."""
    from renaissance.spec.schema import run_schema

    registry = load_plugins().registry if components else None
    typer.echo(json.dumps(run_schema(registry), indent=1))


def _print_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"renaissance {renaissance.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    """Vision-language encoders: train, compare, use.

    `renaissance train --ranks auto run.toml` trains; `torchrun -m renaissance run.toml`, too.
    """


def _read(spec: list[str]) -> Layers:
    # Most mistakes are in the sections: they are reported before torch is imported.
    layers = read_layers(spec)
    check_sections(layers)
    return layers


def main() -> None:
    """Run the command line; exit codes: 0, 1 (failed while running), 2 (nothing was started)."""
    # Loader workers are forked, and a tokenizer that has used threads warns at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Read by PyTorch at its first allocation: with huge pages, a step on a CPU takes 3% less.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    # Until training handles it, Ctrl-C would print a traceback on every rank.
    previous = signal.signal(signal.SIGINT, _leave)
    try:
        if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
            _refuse_misspelt(arguments[0], commands)
            arguments.insert(0, "train")
        app(arguments, prog_name="renaissance")
    # Any failure is one message to the user; --debug shows the traceback.
    except Exception as error:
        if debug:
            raise
        _report(error)
        sys.exit(exit_code_of(error))
    finally:
        signal.signal(signal.SIGINT, previous)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # A launcher forwards Ctrl-C, which the terminal may have sent already.
    signal.signal(number, signal.SIG_IGN)
    if rank_of_process() == 0:
        print("interrupted", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _refuse_misspelt(argument: str, commands: Collection[str]) -> None:
    """Raise if an argument that must be a spec looks like a command."""
    hint = "" if is_recipe(argument) else did_you_mean(argument, commands)
    if hint and not argument.endswith(".toml") and "=" not in argument:
        raise SpecError(
            f"{quoted(argument)} is neither a command nor a .toml file or section.key=value{hint}"
        )


def _report(error: Exception) -> None:
    """Print an error once, although every rank may raise it, or an error that follows from it.

    torchrun ends all ranks as soon as one has exited. So the other ranks wait until rank 0 has
    printed, and a rank that merely lost a peer waits longer, until that peer has. A rank that is
    still running after that is the only one that knows (a file is missing on its machine, say).
    """
    rank = rank_of_process()
    is_peer, text = isinstance(error, PeerError), describe(error)
    if is_lost_peer(error):
        text = LOST_PEER
        time.sleep(2 * PEER_GRACE_SECONDS)
    elif is_peer or rank > 0:
        time.sleep(PEER_GRACE_SECONDS)
    if not is_peer:
        where = f"{name_of_process()}: " if rank > 0 else ""
        console = Console(stderr=True, highlight=False)
        message = Text(f"error: {where}{text}")
        # On a terminal, wrapped at words.
        console.print(message, soft_wrap=not console.is_terminal)
        tell_launcher(f"{where}{text}")
