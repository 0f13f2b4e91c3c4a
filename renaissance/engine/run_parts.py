"""Everything a run is made of, built from its spec."""

from pathlib import Path

import attrs
from transformers import PreTrainedTokenizerFast

from renaissance.contracts.dataset import Dataset, DatasetContext
from renaissance.contracts.encoder import EncoderContext
from renaissance.contracts.objective import Objective
from renaissance.data.collate import Collator
from renaissance.data.concatenation import Concatenation
from renaissance.data.images import ImageTransform
from renaissance.data.loader import BatchPlan
from renaissance.data.order import SampleStream
from renaissance.data.tokenizer import load_tokenizer, separator_id, tokenizer_source
from renaissance.engine.multi_objective import MultiObjective
from renaissance.errors import DataError, SpecError
from renaissance.model.build import build_model, build_objectives
from renaissance.plugins.loading import Plugins
from renaissance.spec.sections import DatasetSpec, RunSpec

DEFAULT_MAX_STEPS = 100_000


@attrs.frozen
class RunParts:
    """The parts of a run.

    Attributes:
        spec: The resolved spec.
        plugins: Components and lifecycle hooks.
        tokenizer: The tokenizer.
        network: Model and objectives, on the CPU.
        train: Makes training micro-batches.
        validate: Makes validation micro-batches; None without `[[data.validate]]`.
        plan: The batch arithmetic.
        total_steps: Optimizer steps of the whole run.
    """

    spec: RunSpec
    plugins: Plugins
    tokenizer: PreTrainedTokenizerFast
    network: MultiObjective
    train: Collator
    validate: Collator | None
    plan: BatchPlan
    total_steps: int

    @property
    def num_samples(self) -> int:
        """Size of the training data."""
        return len(self.train.datasets)

    def stream(self) -> SampleStream:
        """Return the order of training samples."""
        return self.train.datasets.stream(self.spec.run.seed)

    def steps_in(self, epochs: float) -> int:
        """Return the steps that cover so many epochs, at least 1."""
        return max(1, round(epochs * self.num_samples / self.plan.global_batch_size))


def build(spec: RunSpec, plugins: Plugins, world_size: int, load_weights: bool) -> RunParts:
    """Build a run's parts, on the CPU.

    Args:
        spec: The run spec.
        plugins: Installed plugins.
        world_size: Number of ranks.
        load_weights: False to leave pretrained weights out, where a checkpoint will replace them.

    Raises:
        RenaissanceError: If data, weights or options do not fit; the message says which.
    """
    plan = BatchPlan.of(spec.train, world_size)
    train = build_datasets(spec, plugins, spec.data.train, "data.train")
    validate = (
        build_datasets(spec, plugins, spec.data.validate, "data.validate")
        if spec.data.validate
        else None
    )
    tokenizer = load_tokenizer(tokenizer_source(spec), spec.data.max_text_length, train.datasets)
    network = build_network(spec, plugins, tokenizer, load_weights)
    for datasets in [train, *([validate] if validate else [])]:
        check_provides(network, datasets)
    _check_shares(train, plan)
    _check_best_metric(spec, network)
    return RunParts(
        spec=spec,
        plugins=plugins,
        tokenizer=tokenizer,
        network=network,
        train=make_collator(spec, network, tokenizer, train, training=True),
        validate=make_collator(spec, network, tokenizer, validate, training=False)
        if validate
        else None,
        plan=plan,
        total_steps=_total_steps(spec, len(train), plan),
    )


def build_network(
    spec: RunSpec, plugins: Plugins, tokenizer: PreTrainedTokenizerFast, load_weights: bool
) -> MultiObjective:
    """Build model and objectives."""
    context = EncoderContext(
        image_size=spec.data.image_size,
        max_text_length=spec.data.max_text_length,
        vocab_size=len(tokenizer),
        load_weights=load_weights,
        separator_id=separator_id(tokenizer),
    )
    model = build_model(spec, plugins, context)
    objectives = build_objectives(spec, plugins, model, tokenizer)
    transform = _transform(spec, training=False)
    return MultiObjective(model, objectives, transform.mean, transform.std)


def build_datasets(
    spec: RunSpec, plugins: Plugins, sections: tuple[DatasetSpec, ...], where: str
) -> Concatenation:
    """Build the datasets of a split."""
    context = DatasetContext(
        root=Path(spec.data.root), seed=spec.run.seed, training=where == "data.train"
    )
    built: list[tuple[str, Dataset]] = []
    for number, section in enumerate(sections):
        component = plugins.require("dataset", section.type).component
        dataset = component(section.options, context)  # type: ignore[call-arg]
        assert isinstance(dataset, Dataset)
        built.append((f"{where}[{number}] ('{section.type}')", dataset))
    weights = [section.weight for section in sections if section.weight is not None]
    routes = [frozenset(section.objectives) or None for section in sections]
    return Concatenation(built, weights or None, routes)


def make_collator(
    spec: RunSpec,
    network: MultiObjective,
    tokenizer: PreTrainedTokenizerFast,
    datasets: Concatenation,
    training: bool,
) -> Collator:
    """Make what turns sample indices into micro-batches."""
    return Collator(
        datasets=datasets,
        objectives=network.named_objectives(),
        tokenizer=tokenizer,
        transform=_transform(spec, training),
        max_text_length=spec.data.max_text_length,
        seed=spec.run.seed,
        training=training,
        skip_bad_samples=spec.data.max_bad_samples > 0,
    )


def _transform(spec: RunSpec, training: bool) -> ImageTransform:
    data = spec.data
    return ImageTransform(data.transform, data.image_size, training, data.max_image_pixels)


def _total_steps(spec: RunSpec, num_samples: int, plan: BatchPlan) -> int:
    limits = []
    if spec.train.max_steps is not None:
        limits.append(spec.train.max_steps)
    if spec.train.max_epochs is not None:
        # Rounded up: the last batch may take a few samples of the epoch after.
        limits.append(-(-spec.train.max_epochs * num_samples // plan.global_batch_size))
    return min(limits, default=DEFAULT_MAX_STEPS)


def _check_best_metric(spec: RunSpec, network: MultiObjective) -> None:
    known = ["loss"]
    for name, objective in network.named_objectives().items():
        known += [f"{name}/loss", *(f"{name}/{metric}" for metric in objective.metrics())]
        # Metrics of a whole split are known by name only once they are measured.
        measures_splits = type(objective).evaluate_split is not Objective.evaluate_split
        if measures_splits and spec.checkpoint.best_metric.startswith(f"{name}/"):
            return
    if spec.checkpoint.best_metric not in known:
        raise SpecError(
            f"checkpoint.best_metric: got {spec.checkpoint.best_metric!r}, but this run has: "
            f"{', '.join(known)}; choose one of these"
        )


def check_provides(network: MultiObjective, datasets: Concatenation, labelled: bool = True) -> None:
    """Check that datasets hold what the objectives that read them need.

    Args:
        network: The model and its objectives.
        datasets: The datasets of a split.
        labelled: False for a split that shall only be predicted.

    Raises:
        DataError: Naming objective, dataset and what is lacking.
    """
    for name, objective in network.named_objectives().items():
        needs = objective.requires | (objective.labels if labelled else frozenset())
        for dataset_name, dataset, route in zip(
            datasets.names, datasets.datasets, datasets.routes, strict=True
        ):
            lacking = sorted(needs - dataset.provides)
            if lacking and (route is None or name in route):
                raise DataError(
                    f"objective '{name}' needs {', '.join(lacking)}, which {dataset_name} does "
                    f"not provide (it provides {', '.join(sorted(dataset.provides))}); choose "
                    "another dataset or split, leave the objective out, or name in the dataset's "
                    "objectives those that it is for"
                )


def _check_shares(train: Concatenation, plan: BatchPlan) -> None:
    """Check that every micro-batch holds samples for every objective, as DDP needs it to."""
    if not train.has_routes:
        return
    least = train.stream(seed=0).min_share(plan.micro_batch_size)
    for name, number in zip(train.names, least, strict=True):
        if number == 0:
            raise SpecError(
                f"{name}: its weight gives it less than one sample in a micro-batch of "
                f"{plan.micro_batch_size}; datasets for different objectives need one each. "
                "Raise its weight or train.micro_batch_size"
            )
