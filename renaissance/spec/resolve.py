"""Fill in the defaults of a run spec that depend on data, encoders and ranks."""

from typing import TypeVar

import attrs

from renaissance.errors import SpecError
from renaissance.spec.architectures import ARCHITECTURES
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.choice import EncoderChoice
from renaissance.spec.sections import (
    ResolvedCheckpoint,
    ResolvedData,
    ResolvedEvaluate,
    ResolvedSpec,
    ResolvedTrain,
    ResolvedTransform,
    RunSpec,
)

DEFAULT_MAX_STEPS = 100_000

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
    """

    num_samples: int
    world_size: int
    normalization: Normalization | None = None


def resolve(spec: RunSpec, facts: Facts) -> ResolvedSpec:
    """Fill in every default that depends on something else.

    The result, written as `spec.toml`, is the record of a run: a default that changes in a later
    release does not change what that file says. Resolving it again changes nothing.

    Raises:
        SpecError: If the batch does not divide evenly, or no tokenizer is given or implied.
    """
    plan = BatchPlan.of(spec.train, facts.world_size)
    evaluation_interval = spec.evaluate.every_steps or _steps_in(
        spec.evaluate.every_epochs or 1.0, facts, plan
    )
    mean, std = facts.normalization or spec.data.transform.normalization
    transform = spec.data.transform
    max_steps = _max_steps(spec, facts, plan)
    _check_warmup(spec.schedule.warmup_steps, max_steps)
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
        ),
        evaluate=_as(ResolvedEvaluate, spec.evaluate, every_steps=evaluation_interval),
        checkpoint=_as(
            ResolvedCheckpoint,
            spec.checkpoint,
            every_steps=spec.checkpoint.every_steps or evaluation_interval,
        ),
    )


def encoder_for(spec: RunSpec, modality: str) -> EncoderChoice:
    """Return the encoder that takes a modality."""
    encoder: EncoderChoice = getattr(
        spec.model, ARCHITECTURES[spec.model.type].encoder_for(modality)
    )
    return encoder


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
        # Rounded up: the last batch may take a few samples of the next epoch.
        num_samples = spec.train.max_epochs * facts.num_samples
        limits.append(-(-num_samples // plan.global_batch_size))
    return min(limits, default=DEFAULT_MAX_STEPS)


def _check_warmup(warmup: int | float, max_steps: int) -> None:
    if isinstance(warmup, int) and warmup > max_steps:
        raise SpecError(
            f"schedule.warmup_steps: got {warmup:,}, but the run has {max_steps:,} steps "
            "(train.max_steps, train.max_epochs), so the learning rate would never reach its "
            "value; use fewer, or a fraction of all steps, such as 0.1"
        )


def _steps_in(epochs: float, facts: Facts, plan: BatchPlan) -> int:
    return max(1, round(epochs * facts.num_samples / plan.global_batch_size))


def _as(resolved: type[T], section: object, **values: object) -> T:
    """Return a section as its resolved class, with some values replaced."""
    names = [field.name for field in attrs.fields(type(section))]  # type: ignore[arg-type]
    return resolved(**{name: getattr(section, name) for name in names} | values)
