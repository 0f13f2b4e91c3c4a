"""Checks that involve several keys of a section.

They get a draft of the section. Invalid values are left unset, since they have been reported.
"""

from collections import Counter
from functools import singledispatch

from renaissance.errors import quoted, shortened
from renaissance.plugins.registry import Registry
from renaissance.spec.architectures import ARCHITECTURES, Modalities
from renaissance.spec.batch_plan import divisors
from renaissance.spec.choice import DatasetChoice, EncoderChoice
from renaissance.spec.faults import Faults
from renaissance.spec.sections import (
    CheckpointSection,
    DataSection,
    ModelSection,
    RunSpec,
    TrainSection,
)


@singledispatch
def check_section(section: object, registry: Registry | None) -> None:
    """Check a section; those without an implementation below have nothing to check.

    Args:
        section: The draft.
        registry: The components; None if they are not loaded yet, and so cannot be checked.

    Raises:
        FaultsError: With what is wrong; the paths start from the section.
    """


@check_section.register
def _(section: ModelSection, registry: Registry | None) -> None:
    faults = Faults()
    if not hasattr(section, "type"):
        return
    architecture = ARCHITECTURES[section.type]
    for key in [name for other in ARCHITECTURES.values() for name in other.encoders]:
        if not hasattr(section, key):
            continue
        encoder: EncoderChoice | None = getattr(section, key)
        if key not in architecture.encoders and encoder is not None:
            instead = " and ".join(architecture.encoders)
            faults.add(f"a {section.type} model has {instead} instead; remove this table", key)
        elif key in architecture.encoders and encoder is None:
            faults.add(f"missing; a {section.type} model needs a table [model.{key}]", key)
        elif encoder is not None and registry is not None:
            with faults.collect(key, "type"):
                _check_modalities(encoder, architecture.encoders[key], registry)
        if encoder is not None and encoder.adapt is not None:
            _check_adapt(section.type, encoder, key, faults)
    if not architecture.has_fusion and getattr(section, "fusion", None) is not None:
        faults.add(f"a {section.type} model fuses in its encoder; remove this table", "fusion")
    if registry is not None and getattr(section, "pooler", None) is not None and not section.fuses:
        faults.add("model.fusion.type = 'none' leaves nothing to pool; remove this table", "pooler")
    faults.raise_any()


def _check_adapt(model_type: str, encoder: EncoderChoice, key: str, faults: Faults) -> None:
    if encoder.frozen:
        faults.add(
            f"freezes the encoder's own parameters already; remove {key}.frozen", key, "adapt"
        )
    if model_type == "one-tower":
        faults.add(
            "would freeze the new embeddings of the joint encoder, which start random; remove this "
            "key, or use a two-tower model",
            *(key, "adapt"),
        )


def _check_modalities(encoder: EncoderChoice, expected: Modalities, registry: Registry) -> None:
    if encoder.modalities != expected:
        fitting = [
            registration.name
            for registration in registry
            if registration.kind == "encoder"
            and EncoderChoice(registration, None).modalities == expected
        ]
        raise ValueError(
            f"'{encoder.type}' takes {_join(encoder.modalities)}, expected an encoder of "
            f"{_join(expected)}; known: {', '.join(fitting) or 'none'}"
        )


def _join(modalities: Modalities) -> str:
    return " and ".join(sorted(modalities, reverse=True))


@check_section.register
def _(section: TrainSection, registry: Registry | None) -> None:
    faults = Faults()
    total = getattr(section, "global_batch_size", None)
    micro = getattr(section, "micro_batch_size", None)
    if total and micro and total % micro != 0:
        near = min(divisors(total), key=lambda size: abs(size - micro))
        faults.add(
            f"got {micro}, which does not divide train.global_batch_size = {total}; "
            f"the nearest that does is {near}",
            "micro_batch_size",
        )
    if getattr(section, "parallel", "") == "fsdp" and getattr(section, "precision", "") == "fp16":
        faults.add(
            "'fsdp' does not scale gradients, which train.precision = 'fp16' needs; use 'bf16' or "
            "'fp32', or parallel = 'ddp'",
            "parallel",
        )
    faults.raise_any()


@check_section.register
def _(section: CheckpointSection, registry: Registry | None) -> None:
    faults = Faults()
    is_whole = hasattr(section, "best_metric") and hasattr(section, "best_mode")
    if is_whole and section.best_mode is None and not section.watches_loss:
        faults.add(
            f"missing; best_metric = {quoted(section.best_metric)} is not a loss, so say whether "
            "the lowest or the highest value is the best: 'min' or 'max'",
            "best_mode",
        )
    faults.raise_any()


@check_section.register
def _(section: DataSection, registry: Registry | None) -> None:
    faults = Faults()
    if not getattr(section, "train", True):
        faults.add("missing; a run needs at least one table [[data.train]]", "train")
    datasets = getattr(section, "train", ())
    weighted = [dataset for dataset in datasets if dataset.weight is not None]
    for index, dataset in enumerate(datasets):
        if weighted and dataset.weight is None:
            faults.add(
                "missing; other datasets have one: give one to each", "train", index, "weight"
            )
    for index, dataset in enumerate(getattr(section, "validate", ())):
        if dataset.weight is not None:
            message = "evaluation takes every sample once; remove this key"
            faults.add(message, "validate", index, "weight")
    faults.raise_any()


@check_section.register
def _(section: RunSpec, registry: Registry | None) -> None:
    faults = Faults()
    objectives = getattr(section, "objectives", None)
    if objectives == ():
        faults.add("missing; a run needs at least one table [[objectives]]", "objectives")
    if objectives and not any(objective.weight for objective in objectives):
        faults.add(
            "every objective has weight 0, so nothing would be trained; give one a weight above 0",
            "objectives",
        )
    if objectives and registry is not None and not any(o.learns for o in objectives):
        faults.add(
            "every objective only evaluates, so nothing would be trained; add one that learns, "
            "such as itc",
            "objectives",
        )
    # A name defaults to the component's type, so names are known only once components are.
    names = [objective.name for objective in objectives or ()] if registry is not None else []
    for index, name in enumerate(names):
        if Counter(names)[name] > 1:
            faults.add(
                f"{names.count(name)} objectives are called {quoted(name)}; give each a "
                "unique name",
                "objectives",
                index,
                "name",
            )
    train = getattr(section, "train", None)
    if getattr(train, "patience", None) and not getattr(section.data, "validate", True):
        faults.add(
            "counts evaluations, but there are none; add a table [[data.validate]], or remove this "
            "key",
            *("train", "patience"),
        )
    if names and hasattr(section, "data"):
        learning = [objective.name for objective in objectives or () if objective.learns]
        _check_routes(section.data, names, learning, faults)
    if hasattr(section, "data") and hasattr(section, "model"):
        _check_cache(section.data, section.model, faults)
    keeps_states = getattr(getattr(section, "data", None), "cache", "none") == "tokens"
    if keeps_states and getattr(train, "parallel", "") == "fsdp":
        faults.add(
            "with 'fsdp', all ranks compute a layer together, but with data.cache = 'tokens' each "
            "encodes only images that it does not know; use data.cache = 'pixels', or 'ddp'",
            *("train", "parallel"),
        )
    faults.raise_any()


def _check_cache(data: DataSection, model: ModelSection, faults: Faults) -> None:
    """Check that what a cache keeps of an image does not change in training."""
    encoder = getattr(model, "image_encoder", None)
    if getattr(data, "cache", "none") != "tokens" or getattr(encoder, "frozen", False) is True:
        return
    faults.add(
        "'tokens', but the model has no frozen image encoder, so what becomes of an image changes; "
        "expected a two-tower model with model.image_encoder.frozen = true. Freeze it, or set "
        "data.cache = 'pixels'",
        *("data", "cache"),
    )


def _check_routes(data: DataSection, names: list[str], learning: list[str], faults: Faults) -> None:
    """Check that datasets name objectives of this run, and that every objective has a dataset."""
    for split in ("train", "validate"):
        datasets: tuple[DatasetChoice, ...] = getattr(data, split, ())
        for index, dataset in enumerate(datasets):
            for name in dataset.objectives or ():
                if name not in names:
                    faults.add(
                        f"{quoted(name)} is not an objective of this run; it has "
                        f"{shortened(', '.join(names))}",
                        *("data", split, index, "objectives"),
                    )
        for name in learning if split == "train" else names:
            if datasets and all(d.objectives and name not in d.objectives for d in datasets):
                faults.add(
                    f"no dataset is for objective {quoted(name)}; add it to the objectives of a "
                    "dataset",
                    *("data", split),
                )
