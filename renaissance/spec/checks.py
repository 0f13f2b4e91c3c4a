"""Checks between the keys of a section, beyond what each key can tell by itself.

They are handed a draft of the section, in which a value that is at fault is no attribute: what is
wrong with it is already said.
"""

from collections import Counter
from functools import singledispatch
from typing import Any

from renaissance.contracts.encoder import Encoder
from renaissance.plugins.loading import Plugins
from renaissance.spec.faults import Faults
from renaissance.spec.sections import (
    DataSection,
    DatasetSpec,
    EncoderSpec,
    ModelSection,
    RunSpec,
    TrainSection,
)

# The encoder keys of each architecture, with what the encoder there must take.
ENCODERS = {
    "two-tower": {"text_encoder": {"text"}, "image_encoder": {"image"}},
    "one-tower": {"encoder": {"text", "image"}},
}


@singledispatch
def check_section(section: Any, plugins: Plugins) -> None:
    """Check a section; those without an implementation below have nothing to check.

    Raises:
        FaultsError: With what is wrong; the paths start from the section.
    """


@check_section.register
def _(section: ModelSection, plugins: Plugins) -> None:
    faults = Faults()
    if not hasattr(section, "type"):
        return
    own = ENCODERS[section.type]
    for key, modalities in {**ENCODERS["two-tower"], **ENCODERS["one-tower"]}.items():
        if not hasattr(section, key):
            continue
        encoder: EncoderSpec | None = getattr(section, key)
        if key not in own and encoder is not None:
            instead = " and ".join(own)
            faults.add(f"a {section.type} model has {instead} instead; remove this table", key)
        elif key in own and encoder is None:
            faults.add(f"missing; a {section.type} model needs a table [model.{key}]", key)
        elif encoder is not None:
            with faults.collect(key, "type"):
                _check_modalities(encoder.type, modalities, plugins)
    if section.type == "one-tower" and getattr(section, "fusion", None) is not None:
        faults.add("a one-tower model fuses in its encoder; remove this table", "fusion")
    faults.raise_any()


def _check_modalities(name: str, expected: set[str], plugins: Plugins) -> None:
    encoders: dict[str, Any] = {
        registration.name: registration.component
        for registration in plugins.registry
        if issubclass(registration.component, Encoder)
    }
    if encoders[name].modalities != expected:
        fitting = [other for other in encoders if encoders[other].modalities == expected]
        raise ValueError(
            f"'{name}' takes {_join(encoders[name].modalities)}, expected an encoder of "
            f"{_join(expected)}; known: {', '.join(fitting) or 'none'}"
        )


def _join(modalities: set[str]) -> str:
    return " and ".join(sorted(modalities, reverse=True))


@check_section.register
def _(section: TrainSection, plugins: Plugins) -> None:
    faults = Faults()
    total = getattr(section, "global_batch_size", None)
    micro = getattr(section, "micro_batch_size", None)
    if total and micro and total % micro != 0:
        divisors = [number for number in range(1, total + 1) if total % number == 0]
        near = min(divisors, key=lambda number: abs(number - micro))
        faults.add(
            f"got {micro}, which does not divide train.global_batch_size = {total}; "
            f"the nearest that does is {near}",
            "micro_batch_size",
        )
    faults.raise_any()


@check_section.register
def _(section: DataSection, plugins: Plugins) -> None:
    faults = Faults()
    if not getattr(section, "train", True):
        faults.add("missing; a run needs at least one table [[data.train]]", "train")
    datasets = getattr(section, "train", ())
    weighted = [dataset for dataset in datasets if dataset.weight is not None]
    for index, dataset in enumerate(datasets):
        if weighted and dataset.weight is None:
            faults.add(
                "missing; other datasets have one: give each its own", "train", index, "weight"
            )
    for index, dataset in enumerate(getattr(section, "validate", ())):
        if dataset.weight is not None:
            message = "evaluation takes every sample once; remove this key"
            faults.add(message, "validate", index, "weight")
    faults.raise_any()


@check_section.register
def _(section: RunSpec, plugins: Plugins) -> None:
    faults = Faults()
    objectives = getattr(section, "objectives", None)
    if objectives == ():
        faults.add("missing; a run needs at least one table [[objectives]]", "objectives")
    names = [objective.name or objective.type for objective in objectives or ()]
    for index, name in enumerate(names):
        if Counter(names)[name] > 1:
            faults.add(
                f"{names.count(name)} objectives are called '{name}'; give each its own name",
                "objectives",
                index,
                "name",
            )
    if names and hasattr(section, "data"):
        _check_routes(section.data, names, faults)
    faults.raise_any()


def _check_routes(data: DataSection, names: list[str], faults: Faults) -> None:
    """Check that datasets name objectives of this run, and that none of these gets nothing."""
    for split in ("train", "validate"):
        datasets: tuple[DatasetSpec, ...] = getattr(data, split, ())
        for index, dataset in enumerate(datasets):
            for name in dataset.objectives:
                if name not in names:
                    faults.add(
                        f"'{name}' is no objective of this run; it has {', '.join(names)}",
                        *("data", split, index, "objectives"),
                    )
        for name in names:
            if datasets and all(d.objectives and name not in d.objectives for d in datasets):
                faults.add(
                    f"no dataset is for objective '{name}'; name it in one's objectives",
                    *("data", split),
                )
