"""`renaissance data`: prepare datasets, and look into what was prepared."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from renaissance.commands.plugins import print_table
from renaissance.commands.submission import Task, check_submission
from renaissance.data.contact_sheet import draw_contact_sheet
from renaissance.data.inspect import QUANTILES, Inspection, inspect_file
from renaissance.data.prepare.datasets import SOURCES
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.records import Source
from renaissance.data.prepare.sources.image_text import image_text_source
from renaissance.data.prepare.sources.karpathy import karpathy_source
from renaissance.data.prepare.sources.vqav2 import vqav2_source
from renaissance.data.prepare.tables import PrepareOptions, write_tables
from renaissance.data.prepare.vqa_answers import MIN_COUNT
from renaissance.errors import DataError

MAX_SHOWN = 20
# What is expected in the folder of each dataset.
LAYOUTS = {
    "coco": "COCO captions: train2014/, val2014/ and karpathy/dataset_coco.json; or train2017/ and "
    "so on and annotations/captions_*.json.",
    "f30k": "Flickr30k: flickr30k-images/ and karpathy/dataset_flickr30k.json.",
    "vg": "Visual Genome: images/VG_100K/, images/VG_100K_2/ and "
    "annotations/region_descriptions.json.",
    "sbu": "SBU captions: images_train/ and annot.json.",
    "gcc": "Conceptual Captions: images_train/, images_val/, train_annot.json, val_annot.json.",
    "nlvr2": "NLVR2: images/train/, dev/, test1/ and nlvr2/data/.",
    "snli-ve": "SNLI-VE: Flickr30K/images/ and snli_ve_{train,dev,test}.jsonl.",
    "refcoco": "RefCOCO: train2014/, refs(unc).p, instances.json.",
    "refcoco+": "RefCOCO+: train2014/, refs(unc).p, instances.json.",
    "refcocog": "RefCOCOg: train2014/, refs(umd).p, instances.json.",
}

app = typer.Typer(
    help="Prepare datasets, and inspect them.", no_args_is_help=True, pretty_exceptions_enable=False
)
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


@prepare.command("image-text")
def image_text(
    source: Annotated[
        str,
        typer.Option(
            help="Images with a captions file (jsonl, csv, tsv, parquet), or WebDataset tars: a "
            "folder, file, pattern, or address."
        ),
    ],
    output: Output,
    name: Annotated[str, typer.Option(help="Prefix of the files.")] = "image_text",
    workers: Workers = 1,
    resize: Resize = None,
    check: Check = False,
    max_missing: MaxMissing = 0.01,
) -> None:
    """Your own images: with a captions file beside them, or in WebDataset tars."""
    options = PrepareOptions(
        output=output, workers=workers, resize=resize, check=check, max_missing=max_missing
    )
    write(image_text_source(source, name=name), options)


def _command(dataset: str) -> Callable[..., None]:
    def command(
        source: SourceFolder,
        output: Output,
        splits: Splits = None,
        workers: Workers = 1,
        resize: Resize = None,
        check: Check = False,
        max_missing: MaxMissing = 0.01,
    ) -> None:
        options = PrepareOptions(
            output=output, workers=workers, resize=resize, check=check, max_missing=max_missing
        )
        write(SOURCES[dataset](source, _names(splits)), options)

    return command


@prepare.command()
def vqav2(
    source: SourceFolder,
    output: Output,
    min_count: Annotated[
        int,
        typer.Option(
            min=1, help="How often an answer must be the most frequent one to become a class."
        ),
    ] = MIN_COUNT,
    splits: Splits = None,
    workers: Workers = 1,
    resize: Resize = None,
    check: Check = False,
    max_missing: MaxMissing = 0.01,
) -> None:
    """VQA v2: train2014/, val2014/, test2015/, and the questions and annotations."""
    options = PrepareOptions(
        output=output, workers=workers, resize=resize, check=check, max_missing=max_missing
    )
    write(vqav2_source(source, _names(splits), min_count), options)


for _dataset, _layout in LAYOUTS.items():
    prepare.command(_dataset, help=_layout)(_command(_dataset))


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
    # Reasons without their numbers and names, so that what is alike is counted together.
    reasons = Counter((entry.table, entry.kind) for entry in report.left_out)
    print_table(
        ("left out of", "number", "reason"),
        [(table, f"{number:,}", kind) for (table, kind), number in reasons.most_common(MAX_SHOWN)],
    )


def _names(splits: str | None) -> list[str] | None:
    return None if splits is None else [name.strip() for name in splits.split(",")]


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Arrow files.")],
    check: Annotated[
        bool,
        typer.Option("--check", help="Decode every image, and compare with the manifest."),
    ] = False,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="Picture to draw a grid of images into, with texts and labels."),
    ] = None,
) -> None:
    """Say what Arrow files hold, and with --check whether all of it can be read."""
    faults: list[str] = []
    for path in files:
        inspection = inspect_file(path, check)
        _print_inspection(inspection)
        faults += inspection.faults
    if contact_sheet is not None:
        draw_contact_sheet(files[0]).save(contact_sheet)
        typer.echo(f"contact sheet of {files[0]}: {contact_sheet}")
    if faults:
        raise DataError("\n".join([*faults, f"{len(faults)} faults; prepare or copy again"]))
    if check:
        typer.echo(f"ok: {len(files)} files, every image decoded, every checksum as written")


@app.command("validate-submission")
def validate_submission(
    file: Annotated[Path, typer.Argument(help="What `renaissance evaluate --predictions` wrote.")],
    task: Annotated[Task, typer.Option(help="The task.")],
    questions: Annotated[
        Path,
        typer.Option(
            help="What it shall answer: for vqa and nlvr2 the official questions (.json), for "
            "snli-ve the prepared Arrow file of the split."
        ),
    ],
) -> None:
    """Check that predictions answer every question once, in the form that is handed in."""
    found = check_submission(file, task, questions)
    rows = [("questions", found.num_questions), ("predictions", found.num_predictions)]
    rows += found.counts.items()
    print_table((str(file), "number"), [(name, f"{number:,}") for name, number in rows])
    found.raise_faults(file)
    typer.echo("ok: every question is answered once")


def _print_inspection(inspection: Inspection) -> None:
    low, mean, high = inspection.texts_a_row
    facts = [
        ("rows", f"{inspection.rows:,}"),
        *((f"column {name}", kind) for name, kind in inspection.schema.items()),
        ("texts a row", f"{low} to {high}, mean {mean:.2f}"),
    ]
    if inspection.text_lengths:
        quantiles = zip(QUANTILES, inspection.text_lengths, strict=True)
        words = ", ".join(f"{quantile:.0%}: {length:g}" for quantile, length in quantiles)
        facts.append(("words a text, quantiles", words))
    formats = ", ".join(f"{name}: {number:,}" for name, number in inspection.formats.items())
    facts.append((f"formats of {inspection.num_images:,} images", formats))
    for name, (least, median, most) in (
        ("widths", inspection.widths),
        ("heights", inspection.heights),
    ):
        facts.append((name, f"{least} to {most}, median {median}"))
    for number, sample in enumerate(inspection.samples):
        facts += [(f"row {number}: {column}", value) for column, value in sample.items()]
    print_table((str(inspection.path), ""), facts)
