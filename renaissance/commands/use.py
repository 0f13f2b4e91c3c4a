"""`renaissance predict`, `serve` and `export`: their flags; what they do is imported late."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from renaissance.commands.arguments import Columns, Device, RankCount, TrustPlugins, debug_flag

app = typer.Typer()


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="TABLE",
            help="New rows: a csv, tsv, jsonl, Parquet or Arrow file, a WebDataset tar, or a "
            "pattern.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Instead of new rows: a split of the run's own datasets, as `evaluate` takes it."
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="With --split: the folder of these datasets, if they have moved."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="File to write: .jsonl, .csv or .parquet; any other name gets the task's own form."
        ),
    ] = Path("predictions.jsonl"),
    objective: Annotated[
        str | None, typer.Option(help="Objective to predict with, if several can.")
    ] = None,
    column: Columns = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a checkpoint's folder.")] = "best",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows in one pass; by default, as in evaluation.")
    ] = None,
    device: Device = "auto",
    trust_plugins: TrustPlugins = False,
    ranks: RankCount = None,
) -> None:
    """Predict rows with a trained run; the same command again resumes it."""
    from renaissance.commands.predict import PredictionRequest, parse_columns
    from renaissance.commands.predict import predict as run_prediction

    columns = parse_columns(column or [])
    request = PredictionRequest(
        run,
        inputs or [],
        split,
        data_root,
        columns,
        output,
        objective,
        checkpoint,
        batch_size,
        device,
        trust_plugins,
    )
    if ranks is not None:
        from renaissance.elastic import number_of_ranks, start_ranks

        arguments = ["predict", *request.arguments(), *debug_flag()]
        raise typer.Exit(start_ranks(arguments, number_of_ranks(ranks, device)))
    run_prediction(request)


@app.command()
def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    gallery: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Table of images or texts to search."),
    ] = None,
    column: Columns = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a checkpoint's folder.")] = "best",
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default, this machine alone can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    max_upload_mib: Annotated[int, typer.Option(min=1, help="Largest request, MiB.")] = 16,
    device: Device = "auto",
    trust_plugins: TrustPlugins = False,
) -> None:
    """Ask a trained run on a page in the browser: pictures, texts, and what belongs together."""
    from renaissance.commands.predict import parse_columns
    from renaissance.commands.serve import ServeRequest
    from renaissance.commands.serve import serve as run_server

    columns = parse_columns(column or [])
    run_server(
        ServeRequest(
            run,
            checkpoint,
            gallery or [],
            columns,
            host,
            port,
            max_upload_mib * 2**20,
            device,
            trust_plugins,
        )
    )


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A checkpoint (.ckpt, .pt or .safetensors), or a folder of transformers or its "
            "hub id.",
        ),
    ],
    tool: Annotated[
        Literal["vilt", "meter", "lxmert", "renaissance"],
        typer.Option(
            "--from",
            help="What it is of: vilt; meter, with an image encoder of CLIP; lxmert; or "
            "renaissance, for a model of the earlier Renaissance.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Run folder to write, new or empty.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the tokenizer; by default that in the folder or of the "
            "checkpoint's settings, or else bert-base-uncased."
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the image encoder, which LXMERT lacks: its images are "
            "regions that a detector found."
        ),
    ] = None,
) -> None:
    """Make a run folder of a checkpoint of another tool, to evaluate or to start from."""
    from renaissance.commands.convert import convert as run_conversion

    run_conversion(source, tool, output, tokenizer, image_encoder)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    to: Annotated[
        Literal["hf", "sentence-transformers", "torch", "onnx"],
        typer.Option(
            help="hf: a folder that renaissance.load reads, with a model card, and with each tower "
            "as a folder that transformers loads. sentence-transformers: "
            "a SentenceTransformer and, with a matching objective, a CrossEncoder. torch: "
            "torch.export programs; onnx: ONNX files, both of the text encoder, the image encoder "
            "and the pair scorer."
        ),
    ] = "hf",
    push: Annotated[
        str | None,
        typer.Option(metavar="ORG/NAME", help="Upload the folder to the Hugging Face hub."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a checkpoint's folder.")] = "best",
    trust_plugins: TrustPlugins = False,
) -> None:
    """Export a trained run for other programs, after checking that their outputs agree."""
    from renaissance.commands.export import ExportRequest
    from renaissance.commands.export import export as run_export

    run_export(ExportRequest(run, to, output, push, checkpoint, trust_plugins))
