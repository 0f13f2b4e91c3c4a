"""`renaissance predict`: predictions for the rows of a table, or of a split of the run."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import typer

from renaissance.commands.output import check_writable
from renaissance.commands.split import datasets_of_split, spec_of_split
from renaissance.data.concatenation import Concatenation
from renaissance.engine.distributed import Ranks
from renaissance.engine.progress import progress
from renaissance.engine.run_folder import toml_string
from renaissance.engine.run_parts import check_provides
from renaissance.errors import DataError, SpecError
from renaissance.inference.inputs import open_input
from renaissance.inference.loading import load
from renaissance.inference.model import Model
from renaissance.inference.predicting import Parts, predict_parts
from renaissance.inference.writing import write_predictions
from renaissance.plugins.loading import load_plugins

NUM_THREADS = 4


@attrs.frozen
class PredictionRequest:
    """What to predict.

    Attributes:
        run: The run folder.
        inputs: Tables of rows; or else
        split: a split of the run's own datasets.
        data_root: Folder of those datasets, if it is not the run's `data.root`.
        columns: Columns of the tables by role, where they are given.
        output: The file to write; its suffix determines the form.
        objective: The objective; None if only one makes predictions.
        checkpoint: "best", "last", or a checkpoint's folder.
        batch_size: Rows in one pass through the model; None for that of the run's evaluations.
        device: "auto", "cpu" or "cuda".
        trust_plugins: Whether to run the Python files that the run folder names.
    """

    run: str
    inputs: Sequence[str]
    split: str | None
    data_root: Path | None
    columns: Mapping[str, str]
    output: Path
    objective: str | None = None
    checkpoint: str = "best"
    batch_size: int | None = None
    device: str = "auto"
    trust_plugins: bool = False

    def arguments(self) -> list[str]:
        """Return the arguments of the command line that make this request."""
        options = {
            "--split": self.split,
            "--data-root": None if self.data_root is None else str(self.data_root),
            "--output": str(self.output),
            "--objective": self.objective,
            "--checkpoint": self.checkpoint,
            "--batch-size": None if self.batch_size is None else str(self.batch_size),
            "--device": self.device,
        }
        pairs = [
            *(("--input", path) for path in self.inputs),
            *(("--column", f"{role}={column}") for role, column in self.columns.items()),
            *((flag, value) for flag, value in options.items() if value is not None),
        ]
        flags = ["--trust-plugins"] if self.trust_plugins else []
        return [self.run, *(text for pair in pairs for text in pair), *flags]


def parse_columns(settings: Sequence[str]) -> dict[str, str]:
    """Return columns by role, from settings such as "image=img".

    Raises:
        SpecError: If one is not of this form.
    """
    columns = {}
    for setting in settings:
        role, equals, column = setting.partition("=")
        if not (role and equals and column):
            raise SpecError(f"--column: got {setting!r}, expected ROLE=COLUMN, such as image=img")
        columns[role] = column
    return columns


def predict(request: PredictionRequest) -> None:
    """Predict; every rank must call it. Rank 0 writes the output.

    Raises:
        RenaissanceError: On every rank, if run, data or output are wrong.
    """
    _check(request)
    check_writable("--output", request.output)
    ranks = Ranks(request.device)
    try:
        _predict(request, ranks)
    finally:
        ranks.close()


def _check(request: PredictionRequest) -> None:
    if bool(request.inputs) == (request.split is not None):
        got = "both" if request.inputs else "neither"
        raise SpecError(
            f"predict: got {got} of --input and --split; expected --input TABLE for new rows, or "
            "--split SPLIT for a split of the run's own datasets"
        )
    if request.split is None and request.data_root is not None:
        raise SpecError(
            "--data-root: only --split reads the run's datasets; the tables of --input have paths "
            "of their own"
        )
    if request.split is not None and request.columns:
        raise SpecError(
            "--column: the datasets of --split have their own columns; name columns for --input"
        )


def _predict(request: PredictionRequest, ranks: Ranks) -> None:
    model = ranks.on_all_ranks(
        lambda: load(request.run, ranks.device, request.checkpoint, request.trust_plugins)
    )
    name = ranks.on_all_ranks(lambda: model.predicting(request.objective))
    datasets = ranks.on_all_ranks(lambda: _datasets(request, model, name))
    parts = Parts(request.output.with_name(f"{request.output.name}.parts"), len(datasets))
    ranks.on_all_ranks(
        lambda: _open(parts, request, model, name, datasets) if ranks.is_main else None
    )
    ranks.on_all_ranks(lambda: _predict_parts(request, ranks, model, name, parts, datasets))
    ranks.on_all_ranks(lambda: _join(request, model, name, parts) if ranks.is_main else None)


def _datasets(request: PredictionRequest, model: Model, name: str) -> Concatenation:
    """Open the rows to predict: those of tables, or of a split of the run's own datasets."""
    objective = model.network.named_objectives()[name]
    if request.split is None:
        rows = open_input(request.inputs, request.columns, model, objective.requires)
        return Concatenation([("rows", rows)])
    root = request.data_root
    settings = [] if root is None else [f"data.root={toml_string(str(root))}"]
    spec = spec_of_split(
        [request.run, *settings], request.split, load_plugins(), request.trust_plugins
    )
    datasets = datasets_of_split(spec, request.split)
    check_provides({name: objective}, datasets, labelled=False)
    return datasets


def _open(
    parts: Parts, request: PredictionRequest, model: Model, name: str, datasets: Concatenation
) -> None:
    inputs = [Path(path) for path in request.inputs]
    files = [*inputs, *(path for dataset in datasets.datasets for path in dataset.files)]
    parts.open(
        {
            "checkpoint": str(model.checkpoint),
            "objective": name,
            "columns": dict(request.columns),
            "split": request.split,
            "rows": parts.num_rows,
            "inputs": [
                [str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns]
                if path.is_file()
                else [str(path)]
                for path in files
            ],
        }
    )


def _predict_parts(
    request: PredictionRequest,
    ranks: Ranks,
    model: Model,
    name: str,
    parts: Parts,
    datasets: Concatenation,
) -> None:
    """Predict this rank's share of the parts that are not there yet."""
    mine = [part for part in parts.indices() if part % ranks.world_size == ranks.rank]
    missing = [part for part in mine if not parts.path(part).exists()]
    if ranks.is_main and len(missing) < len(mine):
        typer.echo(f"resumed: {len(mine) - len(missing)} of {len(mine)} parts were there")
    rows = [parts.rows_of(part) for part in missing]
    batch_size = request.batch_size or model.spec.evaluate.micro_batch_size
    collator = model.collator(datasets, name)
    total = sum(map(len, rows))
    with progress("predict", total, "rows", ranks.is_main, has_terminal=True) as advance:
        predicted = predict_parts(model, name, collator, rows, batch_size, NUM_THREADS, advance)
        for part, predictions in zip(missing, predicted, strict=True):
            parts.write(part, predictions)


def _join(request: PredictionRequest, model: Model, name: str, parts: Parts) -> None:
    absent = [part for part in parts.indices() if not parts.path(part).exists()]
    if absent:
        raise DataError(
            f"{parts.folder}: {len(absent)} parts of other ranks are not there; ranks on several "
            "machines need an output on a disk that they share"
        )
    objective = model.network.named_objectives()[name]
    try:
        num_errors = write_predictions(request.output, parts.rows, objective)
    except OSError as error:
        raise SpecError(f"--output: {request.output} cannot be written ({error})") from error
    shutil.rmtree(parts.folder)
    typer.echo(f"written: {request.output} ({parts.num_rows:,} rows, objective '{name}')")
    if num_errors:
        typer.echo(f"cannot be read: {num_errors:,} rows; their error is in the output")
