"""`renaissance data`: prepare datasets."""

from pathlib import Path
from typing import Annotated

import typer

from renaissance.commands.plugins import print_table
from renaissance.data.prepare.karpathy import karpathy_source
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.records import Source
from renaissance.data.prepare.tables import PrepareOptions, write_tables

MAX_SHOWN = 20

app = typer.Typer(help="Prepare datasets.", no_args_is_help=True, pretty_exceptions_enable=False)
# One command a dataset: what is downloaded differs, and so may the options.
prepare = typer.Typer(
    help="Write the Arrow files of a dataset.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(prepare, name="prepare")

SourceFolder = Annotated[Path, typer.Option(help="The dataset as downloaded.")]
Output = Annotated[Path, typer.Option(help="Folder for the files.")]
Splits = Annotated[str | None, typer.Option(help="Splits, separated by commas; all if absent.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read and check images.")]
Resize = Annotated[int | None, typer.Option(min=1, help="Shorter side to scale down to, pixels.")]
Check = Annotated[bool, typer.Option("--check", help="Decode every image to check it.")]
MaxMissing = Annotated[
    float, typer.Option(min=0, max=1, help="Largest fraction of rows that may be left out.")
]


@prepare.command()
def karpathy(
    source: SourceFolder,
    output: Output,
    name: Annotated[
        str | None, typer.Option(help="Prefix of the files; by the JSON file's name if absent.")
    ] = None,
    splits: Splits = None,
    workers: Workers = 1,
    resize: Resize = None,
    check: Check = False,
    max_missing: MaxMissing = 0.01,
) -> None:
    """COCO, Flickr30k, Flickr8k: images, and karpathy/dataset_*.json beside their folder."""
    options = PrepareOptions(
        output=output, workers=workers, resize=resize, check=check, max_missing=max_missing
    )
    write(karpathy_source(source, _names(splits), name), options)


def write(source: Source, options: PrepareOptions) -> None:
    """Write a dataset's tables, and print what was written and what was left out.

    Raises:
        DataError: If too much is left out, or a file cannot be written.
    """
    report = write_tables(source, options)
    print_table(
        ("file", "rows", "texts", "images", "MiB"),
        [
            (file, f"{t.rows:,}", f"{t.texts:,}", f"{t.images:,}", f"{t.size / 2**20:,.1f}")
            for file, t in report.tables.items()
        ],
    )
    _print_left_out(report)
    typer.echo(f"manifest: {report.manifest}")


def _print_left_out(report: Report) -> None:
    if not report.left_out:
        return
    shown = report.left_out[:MAX_SHOWN]
    print_table(("left out of", "record", "reason"), [(e.table, e.record, e.reason) for e in shown])
    if len(report.left_out) > len(shown):
        typer.echo(f"and {len(report.left_out) - len(shown):,} more, listed in the manifest")


def _names(splits: str | None) -> list[str] | None:
    return None if splits is None else [name.strip() for name in splits.split(",")]
