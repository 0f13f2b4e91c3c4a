"""Everything a run is made of, built from its spec."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast, get_args

import attrs
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.dataset import Dataset, DatasetContext
from renaissance.contracts.encoder import EncoderContext
from renaissance.contracts.objective import Objective, overrides
from renaissance.contracts.training_data import NoTrainingData
from renaissance.contracts.transform import TransformContext
from renaissance.data.collate import Collator
from renaissance.data.concatenation import Concatenation
from renaissance.data.open_image import ImageLimits
from renaissance.data.order import SampleStream
from renaissance.data.preprocessor import normalization_of
from renaissance.data.sample_reader import SampleReader
from renaissance.data.tokenizer import (
    DATASET,
    count_ids,
    load_tokenizer,
    separator_id,
    starts_with_class,
)
from renaissance.data.verification import verify_files
from renaissance.data.workers import check_workers, count_workers
from renaissance.engine.checkpoint import load_spec_tables
from renaissance.engine.distributed import choose_device
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import auto_precision
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.training_data import TrainingAnswers, read_records
from renaissance.errors import CheckpointError, DataError, SpecError, did_you_mean, quoted
from renaissance.hub import use_cache_if_unreachable
from renaissance.launch import launch_of_process
from renaissance.model.build import build_model, build_objectives
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.choice import DatasetChoice
from renaissance.spec.resolve import Facts, encoder_for, resolve, tokenizer_key
from renaissance.spec.sections import Precision, ResolvedSpec, RunSpec


@attrs.frozen
class RunParts:
    """The parts of a run.

    Attributes:
        spec: The resolved spec.
        tokenizer: The tokenizer.
        network: Model and objectives, on the CPU.
        train: Makes training micro-batches.
        validate: Makes validation micro-batches; None without `[[data.validate]]`.
        plan: The batch arithmetic.
        answers: What the objectives know about the training data.
        warnings: What is odd about the labels, in words.
    """

    spec: ResolvedSpec
    tokenizer: PreTrainedTokenizerFast
    network: MultiObjective
    train: Collator
    validate: Collator | None
    plan: BatchPlan
    answers: TrainingAnswers
    warnings: tuple[str, ...]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.train.max_steps

    @property
    def num_samples(self) -> int:
        """Size of the training data."""
        return len(self.train.datasets)

    def require_validate(self) -> Collator:
        """Return `validate`.

        Raises:
            SpecError: Without `[[data.validate]]`.
        """
        if self.validate is None:
            raise SpecError("data.validate: missing; add a table [[data.validate]]")
        return self.validate

    def stream(self) -> SampleStream:
        """Return the order of training samples."""
        return self.train.datasets.stream(self.spec.run.seed)


def build(spec: RunSpec, world_size: int, load_weights: bool) -> RunParts:
    """Build a run's parts, on the CPU.

    Args:
        spec: The run spec.
        world_size: Number of ranks.
        load_weights: False to skip reading pretrained parameters, if a checkpoint replaces them.

    Raises:
        RenaissanceError: If data, parameters or options do not fit; the message says which.
    """
    # Before reading any data: the most common fault when the number of ranks changes.
    plan = BatchPlan.of(spec.train, world_size)
    check_workers(count_workers(spec.data.num_workers))
    train = build_datasets(spec, spec.data.train, "data.train")
    validate = (
        build_datasets(spec, spec.data.validate, "data.validate") if spec.data.validate else None
    )
    resolved = resolve_spec(spec, len(train), world_size)
    tokenizer = build_tokenizer(resolved, lambda: train)
    answers = _training_answers(spec, train)
    network = build_network(resolved, tokenizer, load_weights, answers)
    check_provides(network.learning_objectives(), train)
    if validate:
        check_provides(network.named_objectives(), validate)
    _check_shares(train, plan)
    _check_best_metric(resolved, network)
    warnings = [*answers.warnings(), *(answers.check(validate) if validate else [])]
    return RunParts(
        spec=resolved,
        tokenizer=tokenizer,
        network=network,
        train=make_collator(resolved, network, tokenizer, train, training=True),
        validate=make_collator(resolved, network, tokenizer, validate, training=False)
        if validate
        else None,
        plan=plan,
        answers=answers,
        warnings=tuple(warnings),
    )


def resolve_spec(spec: RunSpec, num_samples: int, world_size: int) -> ResolvedSpec:
    """Resolve a spec, with the normalization of its image encoder."""
    transform = spec.data.transform
    # A run folder with a checkpoint keeps what it needs.
    if _kept(spec, RunFolder(spec.folder).encoders) is None:
        use_cache_if_unreachable(_checkpoints(spec))
    is_given = transform.mean is not None and transform.std is not None
    checkpoint = None if is_given else encoder_for(spec, "image").checkpoint
    return resolve(
        spec, Facts(num_samples, world_size, normalization_of(checkpoint), _precision(spec))
    )


def _precision(spec: RunSpec) -> Precision:
    """Return the precision of a spec: for "auto", that of the run if it has begun."""
    if spec.train.precision != "auto":
        return spec.train.precision
    for checkpoint in reversed(RunFolder(spec.folder).checkpoints()):
        # A run goes on from the last one that is whole.
        with suppress(CheckpointError):
            recorded = load_spec_tables(checkpoint).get("train", {})
            for precision in get_args(Precision):
                if recorded.get("precision") == precision:
                    return cast(Precision, precision)
    launch = launch_of_process()
    return auto_precision(choose_device(spec.train.device, launch.rank, launch.local_rank))


def _checkpoints(spec: RunSpec) -> set[str]:
    """Return the hub ids and folders that a run loads from."""
    encoders = (encoder_for(spec, modality).checkpoint for modality in ("text", "image"))
    tokenizer = None if spec.data.tokenizer == DATASET else spec.data.tokenizer
    return {name for name in (*encoders, tokenizer) if name is not None}


def build_tokenizer(
    spec: ResolvedSpec, train: Callable[[], Concatenation]
) -> PreTrainedTokenizerFast:
    """Load the tokenizer: the one that the run folder keeps, if it holds a checkpoint.

    Args:
        spec: The run spec.
        train: Returns the training data, whose words `data.tokenizer = "dataset"` takes.

    Raises:
        SpecError: If there is no such tokenizer.
    """
    kept = _kept(spec, RunFolder(spec.folder).tokenizer)
    source = spec.data.tokenizer if kept is None else str(kept)
    datasets = train().datasets if source == DATASET else []
    # If it is the text encoder's, messages name that key.
    return load_tokenizer(source, spec.data.max_text_length, datasets, tokenizer_key(spec))


def _kept(spec: RunSpec, part: Path) -> Path | None:
    """Return a part of the run folder, if it is there and belongs to a checkpoint."""
    return part if RunFolder(spec.folder).last is not None and part.is_dir() else None


def _training_answers(spec: RunSpec, train: Concatenation) -> TrainingAnswers:
    run = RunFolder(spec.folder)
    # What a run left that has no checkpoint was never used.
    is_resumed = run.last is not None
    stored = read_records(run.classes) if is_resumed else {}
    return TrainingAnswers(lambda: train, stored, is_resumed)


def build_network(
    spec: ResolvedSpec,
    tokenizer: PreTrainedTokenizerFast,
    load_weights: bool,
    answers: TrainingAnswers | None = None,
) -> MultiObjective:
    """Build model and objectives; without answers, objectives may not ask for the data."""
    context = EncoderContext(
        image_size=spec.data.image_size,
        max_text_length=spec.data.max_text_length,
        vocab_size=count_ids(tokenizer),
        load_weights=load_weights,
        separator_id=separator_id(tokenizer),
        saved=_kept(spec, RunFolder(spec.folder).encoders),
        starts_with_class=starts_with_class(tokenizer),
    )
    model = build_model(spec, context)
    objectives = build_objectives(
        spec, model, tokenizer, answers.of if answers else lambda _: NoTrainingData()
    )
    transform = spec.data.transform
    network = MultiObjective(model, objectives, transform.mean, transform.std)
    if spec.train.ema is not None:
        network.keep_average(spec.train.ema)
    return network


def build_datasets(spec: RunSpec, choices: tuple[DatasetChoice, ...], where: str) -> Concatenation:
    """Build the datasets of a split."""
    context = DatasetContext(
        root=Path(spec.data.root),
        seed=spec.run.seed,
        training=where == "data.train",
        max_image_bytes=spec.data.max_image_bytes,
        limits=spec.data.read_limits(),
    )
    built: list[tuple[str, Dataset]] = [
        (f"{where}[{index}] ('{choice.type}')", choice.build(context))
        for index, choice in enumerate(choices)
    ]
    sampling_weights = [choice.weight for choice in choices if choice.weight is not None]
    routes = [frozenset(choice.objectives or ()) or None for choice in choices]
    # Once per machine, whose ranks read the same files.
    if spec.data.verify == "sha256" and launch_of_process().local_rank == 0:
        verify_files(list(dict.fromkeys(file for _, dataset in built for file in dataset.files)))
    return Concatenation(built, sampling_weights or None, routes)


def make_collator(
    spec: ResolvedSpec,
    network: MultiObjective,
    tokenizer: PreTrainedTokenizerFast,
    datasets: Concatenation,
    training: bool,
) -> Collator:
    """Make what turns sample indices into micro-batches."""
    reader = make_reader(spec, tokenizer, datasets, training)
    return Collator(reader, network.learning_objectives(), spec.data.max_bad_samples > 0)


def make_reader(
    spec: ResolvedSpec, tokenizer: PreTrainedTokenizerFast, datasets: Concatenation, training: bool
) -> SampleReader:
    """Make what reads samples, their token ids and their pixels."""
    choice = spec.data.transform
    return SampleReader(
        datasets=datasets,
        tokenizer=tokenizer,
        max_text_length=spec.data.max_text_length,
        transform=choice.build(TransformContext(spec.data.image_size, training, choice.mean)),
        limits=ImageLimits(spec.data.max_image_pixels, spec.data.max_image_bytes),
        max_text_characters=spec.data.max_text_characters,
        seed=spec.run.seed,
        training=training,
    )


def _check_best_metric(spec: RunSpec, network: MultiObjective) -> None:
    if spec.checkpoint.best_metric == "loss":
        return  # Every run has it, and importing metrics takes a second.
    known = ["loss"]
    for name, objective in network.named_objectives().items():
        known += [f"{name}/loss", *(f"{name}/{metric}" for metric in objective.metrics())]
        # The names of metrics of a whole split are known only once they are measured.
        measures_splits = overrides(objective, "evaluate_split")
        if measures_splits and spec.checkpoint.best_metric.startswith(f"{name}/"):
            return
    if spec.checkpoint.best_metric not in known:
        raise SpecError(
            f"checkpoint.best_metric: got {quoted(spec.checkpoint.best_metric)}, but this run has: "
            f"{', '.join(known)}; choose one of these"
        )


def check_provides(
    objectives: Mapping[str, Objective], datasets: Concatenation, labelled: bool = True
) -> None:
    """Check that datasets provide what their objectives need.

    Args:
        objectives: The objectives, by name.
        datasets: The datasets of a split.
        labelled: False for a split that is only predicted, for which labels may be absent.

    Raises:
        DataError: Naming objective, dataset and what is missing.
    """
    for name, objective in objectives.items():
        needs = objective.requires | (objective.labels if labelled else frozenset())
        for dataset_name, dataset, route in zip(
            datasets.names, datasets.datasets, datasets.routes, strict=True
        ):
            missing = sorted(needs - dataset.provides)
            if missing and (route is None or name in route):
                raise DataError(
                    f"objective '{name}' needs {', '.join(missing)}, which {dataset_name} does "
                    f"not provide (it provides {', '.join(sorted(dataset.provides))})"
                    f"{did_you_mean(missing[0], dataset.provides)}; choose "
                    "another dataset or split, remove the objective, or name in the dataset's "
                    "objectives those that it is for"
                )


def _check_shares(train: Concatenation, plan: BatchPlan) -> None:
    """Check that every micro-batch holds samples for every objective, as DDP requires."""
    if not train.has_routes:
        return
    shares = train.stream(seed=0).min_share(plan.micro_batch_size)
    for name, share in zip(train.names, shares, strict=True):
        if share == 0:
            raise SpecError(
                f"{name}: its sampling weight gives it less than one sample in a micro-batch of "
                f"{plan.micro_batch_size}; datasets for different objectives need one each. "
                "Raise its weight or train.micro_batch_size"
            )
