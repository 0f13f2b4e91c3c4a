"""`renaissance evaluate`: measure a run on a split, and write its predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import typer

from renaissance.commands.output import check_writable
from renaissance.commands.results import (
    print_results,
    write_predictions,
    write_results,
)
from renaissance.commands.split import datasets_of_split, spec_of_split
from renaissance.data.concatenation import Concatenation
from renaissance.data.controls import controlled, controls_of
from renaissance.data.tokenizer import tokenizer_sha256
from renaissance.engine.checkpoint import load_checkpoint
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import SplitResult, evaluate
from renaissance.engine.image_cache import cached_collator
from renaissance.engine.init_from import initialize
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import set_tf32
from renaissance.engine.recorded import changed_settings
from renaissance.engine.run_folder import RunFolder, find_checkpoint
from renaissance.engine.run_parts import (
    build_datasets,
    build_network,
    build_tokenizer,
    check_provides,
    make_collator,
    resolve_spec,
)
from renaissance.engine.scores import write_scores
from renaissance.engine.training_data import TrainingAnswers, read_records
from renaissance.errors import CheckpointError, RunError, SpecError
from renaissance.files import write_whole
from renaissance.plugins.loading import Plugins
from renaissance.spec.sections import ResolvedSpec, RunSpec
from renaissance.spec.write import record_tables, tables_to_toml


@attrs.frozen
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        arguments: A run folder or run specs, then settings, as on the command line.
        split: "validate" or "train" for the run's own data; otherwise a split of the validation
            datasets.
        checkpoint: "best", "last", or the folder of a checkpoint or run.
        predictions: File to write predictions to; None for none.
        trust_plugins: Whether to run the Python files that the run folder names.
        controls: Measure again with images blanked, with other images, and with texts blanked.
    """

    arguments: Sequence[str]
    split: str
    checkpoint: str
    predictions: Path | None
    trust_plugins: bool = False
    controls: bool = False

    def command(self) -> list[str]:
        """Return the command line that makes this request."""
        options = {
            "--split": self.split,
            "--checkpoint": self.checkpoint,
        }
        if self.predictions is not None:
            options["--predictions"] = str(self.predictions)
        flags = {"--controls": self.controls, "--trust-plugins": self.trust_plugins}
        return [
            "evaluate",
            *self.arguments,
            *(text for pair in options.items() for text in pair),
            *(flag for flag, is_given in flags.items() if is_given),
        ]


def evaluate_run(request: EvaluationRequest, plugins: Plugins) -> None:
    """Evaluate; every rank must call it. Rank 0 prints the metrics, and writes `results.json`.

    Raises:
        RenaissanceError: On every rank, if spec, data or checkpoint are wrong.
    """
    spec = read_spec(request, plugins)
    if request.predictions is not None:
        check_writable("--predictions", request.predictions)
    ranks = Ranks(spec.train.device)
    set_tf32(spec.train.tf32, ranks.device)
    try:
        _evaluate(request, spec, ranks)
    finally:
        ranks.close()


def _evaluate(request: EvaluationRequest, read: RunSpec, ranks: Ranks) -> None:
    datasets = ranks.on_all_ranks(lambda: datasets_of_split(read, request.split))
    # For one rank: evaluation divides no steps, so any number of ranks will do.
    spec = ranks.on_all_ranks(lambda: resolve_spec(read, len(datasets), world_size=1))
    tokenizer = ranks.on_all_ranks(
        lambda: build_tokenizer(spec, lambda: _train_datasets(spec, datasets))
    )
    digest = tokenizer_sha256(tokenizer)
    ranks.on_all_ranks(lambda: RunFolder(spec.folder).check_tokenizer(digest))
    answers = ranks.on_all_ranks(lambda: _training_answers(spec))
    network = ranks.on_all_ranks(
        lambda: build_network(spec, tokenizer, load_weights=False, answers=answers)
    )
    check_provides(network.named_objectives(), datasets, labelled=False)
    ranks.on_all_ranks(lambda: answers.check(datasets))
    if request.predictions is not None:
        _require_predictions(network)
    checkpoint = ranks.on_all_ranks(lambda: _load(request, spec, network))
    network.to(ranks.device)
    collator = ranks.on_all_ranks(
        lambda: cached_collator(
            make_collator(spec, network, tokenizer, datasets, training=False), spec, network
        )
    )
    result = evaluate(
        network,
        collator,
        spec,
        ranks,
        is_final=True,
        predict=request.predictions is not None,
    )
    controls: dict[str, SplitResult] = {}
    for control in controls_of(datasets) if request.controls else ():
        without = make_collator(
            spec, network, tokenizer, controlled(datasets, control), training=False
        )
        controls[control] = evaluate(network, without, spec, ranks, is_final=True)
    report = _Report(request, spec, read, datasets, network, checkpoint, result, controls)
    ranks.on_all_ranks(lambda: report.make() if ranks.is_main else None)


def read_spec(request: EvaluationRequest, plugins: Plugins) -> RunSpec:
    """Read the spec of an evaluation, with the split that is asked for.

    Raises:
        SpecError: If a run folder, a spec or a split is not there, or not right.
    """
    return spec_of_split(request.arguments, request.split, plugins, request.trust_plugins)


def _train_datasets(spec: RunSpec, datasets: Concatenation) -> Concatenation:
    # The vocabulary is that of the training data, whatever the split.
    return build_datasets(spec, spec.data.train, "data.train") if spec.data.train else datasets


def _training_answers(spec: ResolvedSpec) -> TrainingAnswers:
    # Those of the run, never of the split. A run that needs no training has none yet.
    return TrainingAnswers(
        lambda: build_datasets(spec, spec.data.train, "data.train"),
        read_records(RunFolder(spec.folder).classes),
    )


def _load(request: EvaluationRequest, spec: RunSpec, network: MultiObjective) -> str:
    """Load a checkpoint into the network; return its folder."""
    run = RunFolder(spec.folder)
    if request.checkpoint not in ("best", "last"):
        checkpoint = find_checkpoint(Path(request.checkpoint), prefer_best=True)
    elif run.last is not None:
        checkpoint = run.find(prefer_best=request.checkpoint == "best")
    elif spec.model.init_from is not None:
        # Some runs need no training, such as retrieval with a pretrained matching head.
        return _initialize(network, spec.model.init_from, spec)
    else:
        raise CheckpointError(
            f"{run.path}: no checkpoint there; train the run first, or set model.init_from to a "
            "run whose checkpoint to evaluate unchanged"
        )
    load_checkpoint(checkpoint, network, optimizer=None)
    network.finish()
    return str(checkpoint)


def _initialize(network: MultiObjective, source: str, spec: RunSpec) -> str:
    report = initialize(network, source, spec)
    new = [row.module for row in report.modules if row.status == "newly initialized"]
    if new:
        raise CheckpointError(
            f"{spec.folder}: no checkpoint there, and {report.source} (model.init_from) has no "
            f"parameters for {', '.join(dict.fromkeys(new))}; train the run first, or remove the "
            "objectives that were not trained"
        )
    return report.source


def _require_predictions(network: MultiObjective) -> None:
    if not network.overriding("predictions"):
        names = ", ".join(network.named_objectives())
        raise SpecError(f"--predictions: none of the objectives ({names}) makes predictions")


@attrs.frozen
class _Report:
    """What rank 0 prints and writes of an evaluation."""

    request: EvaluationRequest
    spec: ResolvedSpec
    read: RunSpec
    datasets: Concatenation
    network: MultiObjective
    checkpoint: str
    result: SplitResult
    controls: Mapping[str, SplitResult]

    def make(self) -> None:
        """Print the figures, and write every file that can be written."""
        run, split = RunFolder(self.spec.folder), self.request.split
        changed = changed_settings(run, self.read)
        heading = f"{run.path.name}, {split}"
        print_results(heading, self.checkpoint, self.result, changed, self.controls)
        writers: list[Callable[[], list[Path]]] = [
            lambda: write_results(
                run,
                split,
                self.checkpoint,
                self.result,
                changed,
                self.controls,
                self.request.command(),
            )
        ]
        if self.result.scores:
            writers.append(
                lambda: [write_scores(run, split, self.read, self.datasets, self.result.scores)]
            )
        if not run.spec.is_file():
            writers.append(self._write_spec)
        if self.request.predictions is not None:
            predictions = self.request.predictions
            writers.append(lambda: write_predictions(predictions, self.network, self.result))
        faults = []
        for write in writers:
            # An evaluation may have taken hours: each file that can be written is.
            try:
                for path in write():
                    typer.echo(f"written: {path}")
            except OSError as error:
                faults.append(f"cannot write: {error}")
        if faults:
            raise RunError(f"{'; '.join(faults)}; free space, or write to another folder")

    def _write_spec(self) -> list[Path]:
        """Write the spec of what was evaluated without training."""
        path = RunFolder(self.spec.folder).spec
        write_whole(path, tables_to_toml(record_tables(self.spec)))
        return [path]
