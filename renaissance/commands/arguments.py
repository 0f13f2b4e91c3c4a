"""Arguments that several commands take."""

import sys
from typing import Annotated

import typer

Spec = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC.toml... [section.key=value]...",
        help="Run specs or recipe:NAME (later ones win), then individual settings.",
    ),
]

RankCount = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Processes to start on this machine; auto: one per GPU (as many as can share the "
        "batch equally), or one without GPUs. Without it, this process alone runs, or is one of "
        "those that torchrun has started.",
    ),
]

TrustPlugins = Annotated[
    bool,
    typer.Option(
        "--trust-plugins",
        help="Run the Python files that the spec.toml of a run folder names in run.plugins.",
    ),
]


Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=COLUMN",
        help="Column of the table for a role (image, text, text_pair, image_2, or a label that "
        "the objective reads); by default, the run's own, or the one with the role's name.",
    ),
]


def debug_flag() -> list[str]:
    """Return the flag --debug if it was given, for the processes that a command starts."""
    return ["--debug"] if "--debug" in sys.argv else []
