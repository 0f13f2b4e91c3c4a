"""Fill in the defaults of a run spec that depend on data, encoders and ranks."""

import math
from fractions import Fraction
from typing import TypeVar

import attrs

from renaissance.errors import SpecError
from renaissance.spec.architectures import ARCHITECTURES
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.choice import EncoderChoice
from renaissance.spec.sections import (
    Precision,
    ResolvedCheckpoint,
    ResolvedData,
    ResolvedEvaluate,
    ResolvedSpec,
    ResolvedTrain,
    ResolvedTransform,
    RunSpec,
)

DEFAULT_MAX_STEPS = 100_000
# Well within the integers of TOML, to which spec.toml is written.
MAX_STEPS = 2**62

T = TypeVar("T")

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]


@attrs.frozen
class Facts:
    """What resolving a spec depends on, apart from the spec.

    Attributes:
        num_samples: Size of the training data.
        world_size: Number of ranks.
        normalization: Mean and standard deviation of each channel with which the image encoder
            was trained, if its checkpoint says so.
        precision: What `train.precision = "auto"` stands for.
    """

    num_samples: int
    world_size: int
    normalization: Normalization | None = None
    precision: Precision = "fp32"


def resolve(spec: RunSpec, facts: Facts) -> ResolvedSpec:
    """Fill in every default that depends on something else.

    The result, written as `spec.toml`, is the record of a run: a default that changes in a later
    release does not change what that file says. Resolving it again changes nothing.

    Raises:
        SpecError: If the batch does not divide evenly, the schedule does not fit the run, or no
            tokenizer is given or implied.
    """
    plan = BatchPlan.of(spec.train, facts.world_size)
    max_steps = _max_steps(spec, facts, plan)
    _check_warmup(spec.schedule.warmup_steps, max_steps)
    _check_decay(spec)
    evaluation_interval = spec.evaluate.every_steps or _evaluation_interval(
        spec, facts, plan, max_steps
    )
    mean, std = facts.normalization or spec.data.transform.normalization
    transform = spec.data.transform
    return _as(
        ResolvedSpec,
        spec,
        data=_as(
            ResolvedData,
            spec.data,
            tokenizer=spec.data.tokenizer or _tokenizer_of(spec),
            transform=_as(
                ResolvedTransform,
                transform,
                mean=transform.mean or mean,
                std=transform.std or std,
            ),
        ),
        train=_as(
            ResolvedTrain,
            spec.train,
            max_steps=max_steps,
            micro_batch_size=plan.micro_batch_size,
            precision=facts.precision if spec.train.precision == "auto" else spec.train.precision,
        ),
        evaluate=_as(ResolvedEvaluate, spec.evaluate, every_steps=evaluation_interval),
        checkpoint=_as(
            ResolvedCheckpoint,
            spec.checkpoint,
            every_steps=spec.checkpoint.every_steps or evaluation_interval,
            best_mode=spec.checkpoint.best_mode or "min",
        ),
    )


def encoder_for(spec: RunSpec, modality: str) -> EncoderChoice:
    """Return the encoder that takes a modality."""
    encoder: EncoderChoice = getattr(
        spec.model, ARCHITECTURES[spec.model.type].encoder_for(modality)
    )
    return encoder


def tokenizer_key(spec: ResolvedSpec) -> str:
    """Return the key that names the tokenizer: that of the text encoder, if they are the same."""
    if spec.data.tokenizer == encoder_for(spec, "text").checkpoint:
        return f"model.{ARCHITECTURES[spec.model.type].encoder_for('text')}.checkpoint"
    return "data.tokenizer"


def _tokenizer_of(spec: RunSpec) -> str:
    checkpoint = encoder_for(spec, "text").checkpoint
    if checkpoint is None:
        raise SpecError(
            "data.tokenizer: absent, and the text encoder has no checkpoint to take it from; "
            "name a tokenizer: a hub id, a local folder, or 'dataset'"
        )
    return checkpoint


def _max_steps(spec: RunSpec, facts: Facts, plan: BatchPlan) -> int:
    limits = [] if spec.train.max_steps is None else [spec.train.max_steps]
    if spec.train.max_epochs is not None:
        limits.append(_steps_in(spec.train.max_epochs, facts, plan))
    return min(limits, default=DEFAULT_MAX_STEPS)


def _check_warmup(warmup: int | float, max_steps: int) -> None:
    if isinstance(warmup, int) and warmup > max_steps:
        raise SpecError(
            f"schedule.warmup_steps: got {warmup:,}, but the run has {max_steps:,} steps "
            "(train.max_steps, train.max_epochs), so the learning rate would never reach its "
            "value; use fewer, or a fraction of all steps, such as 0.1"
        )


def _check_decay(spec: RunSpec) -> None:
    end, peak = spec.schedule.end_learning_rate, spec.optimizer.learning_rate
    if end > peak:
        raise SpecError(
            f"schedule.end_learning_rate: got {end}, but the rate decays from "
            f"optimizer.learning_rate = {peak}; use at most that"
        )


def _evaluation_interval(spec: RunSpec, facts: Facts, plan: BatchPlan, max_steps: int) -> int:
    """Return about an epoch, or the fraction that the spec gives.

    A run over whole epochs ends with an evaluation. The one before must not come just before it:
    rounding makes the interval longer than an epoch, which adds up over many epochs.
    """
    interval = _steps_in(spec.evaluate.every_epochs or 1.0, facts, plan)
    max_epochs = spec.train.max_epochs
    if max_epochs is None or max_steps != _steps_in(max_epochs, facts, plan):
        return interval
    while interval < max_steps and 0 < max_steps % interval < interval / 4:
        num_intervals = max_steps // interval
        interval = -(-max_steps // num_intervals)
    return interval


def _steps_in(epochs: float, facts: Facts, plan: BatchPlan) -> int:
    """Return the steps of some epochs, rounded up: the last takes samples of the next epoch."""
    # As a fraction of decimals: 0.1 epochs of 1000 samples are 100 samples, not a bit more.
    num_samples = Fraction(str(epochs)) * facts.num_samples
    steps = math.ceil(num_samples / plan.global_batch_size)
    return max(1, min(steps, MAX_STEPS))


def _as(resolved: type[T], section: object, **values: object) -> T:
    """Return a section as its resolved class, with some values replaced."""
    names = [field.name for field in attrs.fields(type(section))]  # type: ignore[arg-type]
    return resolved(**{name: getattr(section, name) for name in names} | values)
