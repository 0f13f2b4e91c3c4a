"""What a study file may say: one frozen attrs class per table."""

import re
from collections.abc import Mapping
from typing import TypeAlias

import attrs

from renaissance.errors import quoted
from renaissance.options import Field, option
from renaissance.spec.validators import folder_name

# Names become parts of the names of folders, joined by dots.
NAME = re.compile(r"[\w+-]+")

# Layers of a run: files, recipes and settings.
Layers: TypeAlias = str | tuple[str, ...]
# Values by axis; a list stands for any of them.
Pattern: TypeAlias = Mapping[str, Layers]


def _plain_name(instance: object, attribute: Field, values: Mapping[str, object]) -> None:
    for value in values:
        if not NAME.fullmatch(value):
            raise ValueError(
                f"got the name {quoted(value)}, expected letters, digits, '_', '+' and '-', since "
                "it becomes part of a folder's name"
            )


def _plain_names(instance: object, attribute: Field, axes: Mapping[str, Mapping[str, str]]) -> None:
    for name, values in axes.items():
        _plain_name(instance, attribute, {name: None, **values})
        if not values:
            raise ValueError(f"axis '{name}' has no values; add some, or remove it")


def _distinct(instance: object, attribute: Field, values: tuple[object, ...]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"got {quoted(list(values))}, expected each once")


def _some(instance: object, attribute: Field, values: tuple[object, ...]) -> None:
    if not values:
        raise ValueError("got none, expected at least one")


@attrs.frozen
class StageSection:
    """`[study.stage.NAME]`: one run of several that follow each other."""

    files: tuple[str, ...] | None = option(
        None, help="Layers of this stage, in the place of `base`."
    )
    after: str | None = option(
        None, help="The stage whose checkpoint it starts from; the one before it if absent."
    )
    axes: tuple[str, ...] | None = option(
        None,
        help="The axes that this stage depends on; all if absent. Cells that differ only in other "
        "axes share its run.",
    )


@attrs.frozen
class ReportSection:
    """`[study.report]`: what is compared, and with what."""

    metrics: tuple[str, ...] = option(
        ("loss",),
        help="Metrics of the table, such as 'itm/accuracy'.",
        validator=[_some, _distinct],
    )
    baseline: Mapping[str, str] = option(
        factory=dict, help="The variant that the others are compared with; the first if absent."
    )
    controls: bool = option(
        False, help="Measure again without images, with other images, and without texts."
    )
    split: str = option("validate", help="Split to measure, as in `renaissance evaluate --split`.")


@attrs.frozen
class SlurmSection:
    """`[study.slurm]`: what one task of the array is given."""

    options: Mapping[str, str] = option(
        factory=dict, help="Options of sbatch, such as { time = '24:00:00', gres = 'gpu:1' }."
    )
    before: str = option("", help="Shell lines before the command, such as loading modules.")


@attrs.frozen
class StudySection:
    """`[study]`."""

    name: str = option(help="Name of the study, and of its folder.", validator=folder_name)
    base: tuple[str, ...] = option(
        (), help="Layers of every run: files relative to the study file, recipes, settings."
    )
    output_dir: str = option("runs", help="Folder of the study's folder.")
    seeds: tuple[int, ...] = option(
        (0,), help="Seeds; every variant is run with each.", validator=[_some, _distinct]
    )
    stages: tuple[str, ...] = option(
        (), help="Stages of every cell, in order; one run per cell if absent.", validator=_distinct
    )
    stage: Mapping[str, StageSection] = option(factory=dict, help="The stages, by name.")
    axes: Mapping[str, Mapping[str, Layers]] = option(
        factory=dict,
        help="By axis and value: the layers that the value adds.",
        validator=_plain_names,
    )
    include: tuple[Pattern, ...] = option((), help="Keep only variants that match one of these.")
    exclude: tuple[Pattern, ...] = option((), help="Leave out variants that match one of these.")
    report: ReportSection = option(factory=ReportSection, help="The report.")
    slurm: SlurmSection = option(factory=SlurmSection, help="How to run it on SLURM.")


@attrs.frozen
class StudyFile:
    """A whole file."""

    study: StudySection = option(help="The study.")
