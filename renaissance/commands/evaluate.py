"""`renaissance evaluate`: measure a trained run on a split, and write what it predicts."""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.objective import Objective
from renaissance.data.concatenation import Concatenation
from renaissance.data.tokenizer import DATASET, load_tokenizer, tokenizer_source
from renaissance.engine.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import SplitResult, evaluate
from renaissance.engine.init_from import start_from
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import (
    build_datasets,
    build_network,
    check_provides,
    make_collator,
)
from renaissance.errors import CheckpointError, SpecError
from renaissance.plugins.loading import Plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec

RESULTS = "results.json"


@attrs.frozen
class Request:
    """What to evaluate.

    Attributes:
        arguments: A run folder or run specs, then settings, as on the command line.
        split: "validate" or "train" for the run's own data, or another split of those datasets.
        checkpoint: "best", "last", or a checkpoint's folder.
        predictions: File to write predictions to, if any.
    """

    arguments: Sequence[str]
    split: str
    checkpoint: str
    predictions: Path | None


def evaluate_run(request: Request, plugins: Plugins) -> None:
    """Evaluate, on every rank; rank 0 prints a table and writes `results.json`.

    Raises:
        RenaissanceError: If spec, data or checkpoint do not fit; the same on every rank.
    """
    spec = _read_spec(request, plugins)
    if request.predictions is not None:
        _check_place(request.predictions)
    ranks = Ranks(spec.train.device)
    try:
        _evaluate(request, spec, plugins, ranks)
    finally:
        ranks.close()


def _evaluate(request: Request, spec: RunSpec, plugins: Plugins, ranks: Ranks) -> None:
    datasets = ranks.on_all_ranks(lambda: _datasets(request, spec, plugins))
    tokenizer = ranks.on_all_ranks(lambda: _tokenizer(spec, plugins, datasets))
    network = ranks.on_all_ranks(
        lambda: build_network(spec, plugins, tokenizer, load_weights=False)
    )
    check_provides(network, datasets, labelled=False)
    if request.predictions is not None:
        _require_predictions(network)
    weights = ranks.on_all_ranks(lambda: _load(request, spec, network))
    collator = make_collator(spec, network, tokenizer, datasets, training=False)
    result = evaluate(
        network.to(ranks.device),
        collator,
        spec,
        ranks,
        is_final=True,
        predict=request.predictions is not None,
    )
    ranks.on_all_ranks(lambda: _report(request, spec, network, weights, result, ranks))


def _check_place(predictions: Path) -> None:
    # Now rather than when everything is predicted.
    if not predictions.parent.is_dir():
        raise SpecError(f"--predictions: there is no folder {predictions.parent}; make it first")
    if predictions.is_dir():
        raise SpecError(f"--predictions: {predictions} is a folder; name a file")


def _read_spec(request: Request, plugins: Plugins) -> RunSpec:
    first, *more = request.arguments
    if not (Path(first).exists() or "=" in first or first.endswith(".toml")):
        raise SpecError(
            f"{first}: no such folder; expected a run folder (runs/NAME) or a spec (.toml)"
        )
    if Path(first).is_dir():
        if not (Path(first) / "spec.toml").is_file():
            raise SpecError(
                f"{first}: no spec.toml there; expected a run folder (runs/NAME) or a spec"
            )
        # A folder that was moved or is named from elsewhere is still the run's folder.
        folder = Path(first).resolve()
        place = [
            f"run.output_dir={_quoted(str(folder.parent))}",
            f"run.name={_quoted(folder.name)}",
        ]
        first, more = str(folder / "spec.toml"), [*place, *more]
    spec = load_spec([first, *more], plugins)
    if request.split in ("train", "validate"):
        return spec
    if not spec.data.validate:
        raise SpecError(
            f"--split {request.split}: the run has no [[data.validate]] to take that split of"
        )
    split = _quoted(request.split)
    splits = [f"data.validate.{i}.split={split}" for i in range(len(spec.data.validate))]
    return load_spec([first, *more, *splits], plugins)


def _quoted(text: str) -> str:
    """Return a text as TOML, so that 2024 stays one."""
    return json.dumps(text, ensure_ascii=False)


def _datasets(request: Request, spec: RunSpec, plugins: Plugins) -> Concatenation:
    if request.split == "train":
        return build_datasets(spec, plugins, spec.data.train, "data.train")
    if not spec.data.validate:
        raise SpecError("data.validate: missing; there is nothing to evaluate on")
    return build_datasets(spec, plugins, spec.data.validate, "data.validate")


def _tokenizer(spec: RunSpec, plugins: Plugins, datasets: Concatenation) -> PreTrainedTokenizerFast:
    source = tokenizer_source(spec)
    # The words that the run was trained with, whatever the split has.
    if source == DATASET and spec.data.train:
        datasets = build_datasets(spec, plugins, spec.data.train, "data.train")
    return load_tokenizer(source, spec.data.max_text_length, datasets.datasets)


def _load(request: Request, spec: RunSpec, network: MultiObjective) -> str:
    """Load the weights; return where they are from."""
    if request.checkpoint not in ("best", "last"):
        folder = find_checkpoint(Path(request.checkpoint), prefer_best=True)
    elif list_checkpoints(spec.folder / "checkpoints"):
        folder = find_checkpoint(spec.folder, prefer_best=request.checkpoint == "best")
    elif spec.model.init_from is not None:
        # Without training of its own, such as retrieval by a pretrained matching head.
        return _load_start(spec, network)
    else:
        raise CheckpointError(
            f"{spec.folder}: no checkpoint there; train the run first, or set model.init_from to "
            "a run whose weights shall be evaluated as they are"
        )
    load_checkpoint(folder, network, optimizer=None)
    return str(folder)


def _load_start(spec: RunSpec, network: MultiObjective) -> str:
    start = start_from(spec, network)
    new = [outcome.module for outcome in start.outcomes if outcome.fate == "newly initialized"]
    if new:
        raise CheckpointError(
            f"{spec.folder}: no checkpoint there, and {start.source} (model.init_from) has no "
            f"weights for {', '.join(dict.fromkeys(new))}; train the run first, or leave out the "
            "objectives that were not trained"
        )
    return start.source


def _predicting(network: MultiObjective) -> list[str]:
    return [
        name
        for name, objective in network.named_objectives().items()
        if type(objective).predictions is not Objective.predictions
    ]


def _require_predictions(network: MultiObjective) -> None:
    if not _predicting(network):
        names = ", ".join(network.named_objectives())
        raise SpecError(f"--predictions: none of the objectives ({names}) makes predictions")


def _report(
    request: Request,
    spec: RunSpec,
    network: MultiObjective,
    weights: str,
    result: SplitResult,
    ranks: Ranks,
) -> None:
    if not ranks.is_main:
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table("metric", title=f"{spec.folder.name}, {request.split}", box=None)
    table.add_column("value", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    console.print(f"weights: {weights}", markup=False)
    if result.num_bad_samples:
        console.print(f"left out: {result.num_bad_samples} records that cannot be read")
    _write_results(spec, request.split, weights, result)
    console.print(f"written: {spec.folder / RESULTS}", markup=False)
    if request.predictions is not None:
        for path in _write_predictions(request.predictions, network, result):
            console.print(f"written: {path}", markup=False)


def _write_results(spec: RunSpec, split: str, weights: str, result: SplitResult) -> None:
    spec.folder.mkdir(parents=True, exist_ok=True)
    path = spec.folder / RESULTS
    results = json.loads(path.read_text()) if path.is_file() else {}
    results[split] = {
        "weights": weights,
        "metrics": result.metrics,
        "num_bad_samples": result.num_bad_samples,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def _write_predictions(path: Path, network: MultiObjective, result: SplitResult) -> list[Path]:
    """Write each objective's predictions: to the file, or beside it by name where several do."""
    names = _predicting(network)
    written = []
    for name in names:
        own = path if len(names) == 1 else path.with_stem(f"{path.stem}-{name}")
        with own.open("w", encoding="utf-8") as file:
            rows = result.predictions.get(name, [])
            network.named_objectives()[name].write_predictions(rows, file)
        written.append(own)
    return written
