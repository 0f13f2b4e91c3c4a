"""`renaissance data`: prepare datasets, inspect prepared files, and fill caches."""

from pathlib import Path
from typing import Annotated

import attrs
import typer

from renaissance.commands.arguments import RankCount, Spec, TrustPlugins, debug_flag
from renaissance.commands.flags import (
    MaxImageBytes,
    MaxImagePixels,
    MaxNesting,
    MaxRecordBytes,
    MaxTarMembers,
)
from renaissance.commands.output import print_table
from renaissance.commands.prepare import app as prepare_app
from renaissance.data.contact_sheet import draw_contact_sheet
from renaissance.data.inspect import QUANTILES, Inspection, inspect_file
from renaissance.data.open_image import COMMAND_LIMITS, MAX_BYTES, MAX_PIXELS, ImageLimits
from renaissance.data.tables.inspection import InspectedTable, is_prepared
from renaissance.errors import DataError
from renaissance.limits import DEFAULT_LIMITS, ReadLimits, reading_within

app = typer.Typer(
    help="Prepare datasets, inspect them, and fill caches of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(prepare_app, name="prepare")


@app.command()
def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Prepared Arrow files, or any tables: csv, tsv, jsonl, Parquet, Arrow, tar, or a "
            "folder of them."
        ),
    ],
    check: Annotated[
        bool,
        typer.Option("--check", help="Decode every image, and compare with the manifest."),
    ] = False,
    max_image_pixels: MaxImagePixels = MAX_PIXELS,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    max_record_bytes: MaxRecordBytes = DEFAULT_LIMITS.record_bytes,
    max_nesting: MaxNesting = DEFAULT_LIMITS.nesting,
    max_tar_members: MaxTarMembers = DEFAULT_LIMITS.tar_members,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="File for a grid of images of the first file, with texts and labels."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes for the contact sheet, separated by commas, if the file "
            "has their indices: contradiction,neutral,entailment."
        ),
    ] = None,
    root: Annotated[
        Path,
        typer.Option(help="Of tables: data.root, which paths of images are relative to, too."),
    ] = Path(),
) -> None:
    """Show what tables hold, and with --check whether all of it can be read."""
    limits = attrs.evolve(COMMAND_LIMITS, max_pixels=max_image_pixels, max_bytes=max_image_bytes)
    within = ReadLimits(
        record_bytes=max_record_bytes,
        nesting=max_nesting,
        tar_members=max_tar_members,
        of_command=True,
    )
    with reading_within(within):
        faults = [fault for path in files for fault in _inspect(path, root, check, limits)]
        if contact_sheet is not None:
            names = [name.strip() for name in labels.split(",")] if labels is not None else ()
            if is_prepared(files[0]):
                sheet = draw_contact_sheet(files[0], labels=names, limits=limits)
            else:
                sheet = InspectedTable(files[0], root, limits).contact_sheet()
            sheet.save(contact_sheet)
            typer.echo(f"contact sheet of {files[0]}: {contact_sheet}")
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError("\n".join([*faults, f"{count}; prepare or copy again"]))
    if check:
        checksums = ", every checksum as written" if all(map(is_prepared, files)) else ""
        typer.echo(f"ok: {len(files)} files, every image decoded{checksums}")


def _inspect(path: Path, root: Path, check: bool, limits: ImageLimits) -> tuple[str, ...]:
    """Print what a file holds, and return what is wrong with it."""
    if is_prepared(path):
        inspection = inspect_file(path, check, limits)
    else:
        inspection = InspectedTable(path, root, limits).inspect(check)
    _print_inspection(inspection)
    return inspection.faults


@app.command()
def cache(spec: Spec, trust_plugins: TrustPlugins = False, ranks: RankCount = None) -> None:
    """Fill the cache of a run's images (data.cache) before it starts."""
    # Runs import torch, which the other commands here do without.
    from renaissance.plugins.loading import load_plugins
    from renaissance.spec.read import load_spec

    chosen = load_spec(spec, load_plugins(), trust_plugins)
    if ranks is not None:
        from renaissance.elastic import number_of_ranks, start_ranks

        trust = ["--trust-plugins"] if trust_plugins else []
        arguments = ["data", "cache", *spec, *trust, *debug_flag()]
        num_ranks = number_of_ranks(ranks, chosen.train.device)
        raise typer.Exit(start_ranks(arguments, num_ranks))
    from renaissance.commands.cache import fill_cache

    fill_cache(chosen)


@app.command("validate-submission")
def validate_submission(
    file: Annotated[Path, typer.Argument(help="What `renaissance evaluate --predictions` wrote.")],
    objective: Annotated[str, typer.Option(help="The objective that predicted it.")],
    questions: Annotated[
        Path,
        typer.Option(
            help="What it must answer: the official questions, or the prepared Arrow file of the "
            "split if questions have no official identifiers (snli-ve)."
        ),
    ],
) -> None:
    """Check that predictions answer every question once, in the form of a submission."""
    # Objectives import torch, which the other commands here do without.
    from renaissance.commands.submission import check_submission
    from renaissance.plugins.loading import load_plugins

    report = check_submission(file, objective, questions, load_plugins())
    rows = [("questions", report.num_questions), ("predictions", report.num_predictions)]
    rows += report.counts.items()
    print_table((str(file), "count"), [(name, f"{count:,}") for name, count in rows])
    report.raise_faults(file)
    typer.echo("ok: every question is answered once")


def _print_inspection(inspection: Inspection) -> None:
    low, mean, high = inspection.texts_per_row
    facts = [
        ("rows", f"{inspection.rows:,}"),
        *((f"column {name}", kind) for name, kind in inspection.schema.items()),
        ("texts per row", f"{low} to {high}, mean {mean:.2f}"),
    ]
    if inspection.text_lengths:
        quantiles = zip(QUANTILES, inspection.text_lengths, strict=True)
        words = ", ".join(f"{quantile:.0%}: {length:g}" for quantile, length in quantiles)
        facts.append(("words per text (quantiles)", words))
    formats = ", ".join(f"{name}: {count:,}" for name, count in inspection.formats.items())
    facts.append((f"formats of {inspection.num_images:,} images", formats))
    for name, (lowest, median, highest) in (
        ("widths", inspection.widths),
        ("heights", inspection.heights),
    ):
        facts.append((name, f"{lowest} to {highest}, median {median}"))
    mean_lost, most_lost = inspection.lost_areas
    cropped = f"{mean_lost:.0%} of the area on average, {most_lost:.0%} at most"
    facts.append(("cut off by imagenet, clip, vit", cropped))
    for row, sample in enumerate(inspection.samples):
        facts += [(f"row {row}: {column}", value) for column, value in sample.items()]
    print_table((str(inspection.path), ""), facts)
