"""`renaissance study` and `renaissance compare`: their flags; what they do is imported late."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from renaissance.commands.arguments import TrustPlugins

app = typer.Typer(
    help="Run variants of a run with several seeds, and compare them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="A study file.")]
CellName = Annotated[
    list[str] | None,
    typer.Option("--cell", metavar="NAME", help="Only this run, and those it starts from."),
]


@app.command()
def check(study: StudyFile) -> None:
    """Resolve every run of a study, report all that is wrong, and estimate what each takes."""
    from renaissance.commands.study_check import check_study
    from renaissance.study import Study

    check_study(Study.read(study))


@app.command()
def run(
    study: StudyFile,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once; by default, as many as the GPUs allow, else one."),
    ] = None,
    gpus_per_run: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each run; by default, 1 if there are any.")
    ] = None,
    cell: CellName = None,
) -> None:
    """Train and evaluate the runs of a study; the same command again goes on."""
    from renaissance.commands.study_run import run_study
    from renaissance.study import Study

    raise typer.Exit(run_study(Study.read(study), jobs, gpus_per_run, cell or []))


@app.command("list")
def list_runs(study: StudyFile) -> None:
    """Show how far each run of a study is."""
    from renaissance.commands.study_run import list_study
    from renaissance.study import Study

    list_study(Study.read(study))


@app.command()
def submit(
    study: StudyFile,
    launcher: Annotated[
        Literal["slurm", "print"],
        typer.Option(help="slurm: a script of sbatch arrays; print: one command per line."),
    ] = "print",
) -> None:
    """Print what starts the runs elsewhere: `... --launcher slurm study.toml | sh`."""
    from renaissance.study import Study
    from renaissance.study.submit import commands, slurm_script

    read = Study.read(study)
    lines = slurm_script(read) if launcher == "slurm" else commands(read)
    for line in lines:
        typer.echo(line)


@app.command()
def report(study: StudyFile) -> None:
    """Compare the variants: a table, its files, pictures, and what they were made of."""
    from renaissance.commands.study_report import report_study
    from renaissance.study import Study

    report_study(Study.read(study))


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders; the first is the baseline."),
    ],
    split: Annotated[str, typer.Option(help="Split that all were evaluated on.")] = "validate",
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the samples on which the runs disagree most."),
    ] = None,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Compare evaluated runs: their specs, and their metrics sample by sample."""
    from renaissance.commands.compare import compare_runs

    compare_runs(runs, split, sheet, trust_plugins)
