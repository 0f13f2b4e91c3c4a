"""`renaissance evaluate --suite`: a trained run on a diagnostic suite."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs
import typer

from renaissance.commands.output import print_figures
from renaissance.commands.results import write_record
from renaissance.engine.manifest import model_sha256
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import SpecError, did_you_mean
from renaissance.inference.loading import load
from renaissance.launch import launch_of_process
from renaissance.suites.items import check_images
from renaissance.suites.layouts import SUITES
from renaissance.suites.running import score_items
from renaissance.suites.scores import suite_scores


@attrs.frozen
class SuiteRequest:
    """What to evaluate.

    Attributes:
        arguments: The run folder, alone.
        suite: Name of the suite.
        data: The folder with the suite's files.
        checkpoint: "best", "last", or the folder of a checkpoint.
        trust_plugins: Whether to run the Python files that the run folder names.
    """

    arguments: Sequence[str]
    suite: str
    data: Path
    checkpoint: str = "best"
    trust_plugins: bool = False

    def command(self) -> list[str]:
        """Return the command line that makes this request."""
        flags = ["--trust-plugins"] if self.trust_plugins else []
        options = {"--suite": self.suite, "--data": str(self.data), "--checkpoint": self.checkpoint}
        pairs = (text for pair in options.items() for text in pair)
        return ["evaluate", *self.arguments, *pairs, *flags]


def evaluate_suite(request: SuiteRequest) -> None:
    """Score a suite, print the scores with those of chance, and write them to `results.json`.

    Raises:
        RenaissanceError: If the suite or the run cannot be read, or the run scores no pairs.
    """
    _check(request)
    suite = SUITES[request.suite]
    items = suite.read(request.data)
    check_images(items)
    model = load(
        request.arguments[0], checkpoint=request.checkpoint, trust_plugins=request.trust_plugins
    )
    scorer = model.pair_scorer()
    scores = suite_scores(items, score_items(model, items), suite.min_of_kind)
    rows = [
        (name, f"{value:.4f}", f"{scores.chance[name]:.4f}", f"{scores.num_items[name]:,}")
        for name, value in scores.metrics.items()
    ]
    run = RunFolder(model.spec.folder)
    heading = f"{run.path.name}, {request.suite} ({suite.paper}), scored by {scorer}"
    print_figures(("metric", "value", "chance", "items"), rows, heading=heading)
    typer.echo(f"checkpoint: {model.checkpoint}")
    record = {
        "command": shlex.join(["renaissance", *request.command()]),
        "checkpoint": str(model.checkpoint),
        "checkpoint_sha256": model_sha256(model.checkpoint),
        "scored_by": scorer,
        "metrics": dict(scores.metrics),
        "chance": dict(scores.chance),
        "num_samples": len(items),
    }
    typer.echo(f"written: {write_record(run, request.suite, record)}")


def _check(request: SuiteRequest) -> None:
    if request.suite not in SUITES:
        raise SpecError(
            f"--suite: got {request.suite!r}, expected one of {', '.join(SUITES)}"
            f"{did_you_mean(request.suite, SUITES)}"
        )
    if not request.data.is_dir():
        raise SpecError(f"--data: there is no folder {request.data}; expected that of the suite")
    if len(request.arguments) > 1:
        raise SpecError(
            f"--suite: takes a run folder alone, got {' '.join(request.arguments[1:])} too; leave "
            "it out"
        )
    if launch_of_process().world_size > 1:
        raise SpecError("--suite: runs in one process; start it without torchrun and --ranks")
