"""The variants of a study, and the runs that they are made of."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from renaissance.engine.run_folder import toml_string
from renaissance.files import with_home
from renaissance.spec.recipes import is_recipe
from renaissance.study.sections import Layers, Pattern, StageSection, StudySection

# The only stage of a study without stages; it has no part in the names of runs.
ONLY_STAGE = ""


@attrs.frozen
class Variant:
    """What is compared: one value of each axis.

    Attributes:
        values: The names of the values, by axis.
    """

    values: Mapping[str, str]

    @property
    def name(self) -> str:
        """The names of the values, joined; "all" for a study without axes."""
        return ".".join(self.values.values()) or "all"

    def matches(self, pattern: Pattern) -> bool:
        """Return whether it has the values of a pattern, of which a list stands for any."""
        return all(
            self.values.get(axis) in ([wanted] if isinstance(wanted, str) else wanted)
            for axis, wanted in pattern.items()
        )


@attrs.frozen
class Cell:
    """One run: a variant with a seed, in one stage.

    Attributes:
        name: Name of the run, and of its folder.
        stage: Name of the stage; empty in a study without stages.
        variant: The values that the stage depends on.
        seed: The seed.
        folder: The run folder.
        layers: What is common to all cells of the stage, then what each value of an axis adds.
        after: The cell whose checkpoint it starts from, by name.
        settings: What the study itself sets: name, folder, seed, and where it starts from.
    """

    name: str
    stage: str
    variant: Variant
    seed: int
    folder: Path
    layers: Mapping[str, tuple[str, ...]]
    after: str | None
    settings: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """The arguments of `renaissance train`."""
        return self.arguments_without(None)

    def arguments_without(self, axis: str | None) -> list[str]:
        """Return the arguments without what the value of one axis adds."""
        layers = [layer for name, added in self.layers.items() if name != axis for layer in added]
        # A setting wins over all files: between settings, the last one counts.
        return [*layers, *self.settings]


def variants_of(study: StudySection) -> list[Variant]:
    """Return the variants, the first axis changing slowest."""
    names = list(study.axes)
    combinations = itertools.product(*(study.axes[name] for name in names))
    variants = [Variant(dict(zip(names, values, strict=True))) for values in combinations]
    if study.include:
        variants = [v for v in variants if any(v.matches(pattern) for pattern in study.include)]
    return [v for v in variants if not any(v.matches(pattern) for pattern in study.exclude)]


def stages_of(study: StudySection) -> dict[str, StageSection]:
    """Return the stages in order, each with the name of the one that it starts from."""
    before = [None, *study.stages]
    return {
        name: attrs.evolve(section, after=section.after or previous)
        for name, previous in zip(study.stages, before, strict=False)
        for section in [study.stage.get(name, StageSection())]
    } or {ONLY_STAGE: StageSection()}


def axes_of(study: StudySection, stage: StageSection) -> tuple[str, ...]:
    """Return the axes that a stage depends on."""
    return tuple(study.axes) if stage.axes is None else stage.axes


def cells_of(study: StudySection, path: Path, variants: Sequence[Variant]) -> list[Cell]:
    """Return the runs, each once, those that others start from first.

    Args:
        study: The study.
        path: Its file, which the names of files are relative to.
        variants: Its variants.
    """
    cells: dict[str, Cell] = {}
    for name, stage in stages_of(study).items():
        for variant, seed in itertools.product(variants, study.seeds):
            cell = _cell(study, path, (name, stage), variant, seed)
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def cell_name(study: StudySection, stage_name: str, variant: Variant, seed: int) -> str:
    """Return the name of the run of a variant in a stage."""
    part = _part(study, stages_of(study)[stage_name], variant)
    return ".".join(filter(None, (stage_name, part.name, f"seed-{seed}")))


def _part(study: StudySection, stage: StageSection, variant: Variant) -> Variant:
    axes = axes_of(study, stage)
    return Variant({axis: value for axis, value in variant.values.items() if axis in axes})


def _cell(
    study: StudySection, path: Path, named: tuple[str, StageSection], variant: Variant, seed: int
) -> Cell:
    stage_name, stage = named
    output_dir = Path(study.output_dir) / study.name
    name = cell_name(study, stage_name, variant, seed)
    after = None if stage.after is None else cell_name(study, stage.after, variant, seed)
    part = _part(study, stage, variant)
    layers = {
        "": _located(study.base if stage.files is None else stage.files, path),
        **{axis: _located(study.axes[axis][value], path) for axis, value in part.values.items()},
    }
    settings = [
        f"run.name={toml_string(name)}",
        f"run.output_dir={toml_string(str(output_dir))}",
        f"run.seed={seed}",
    ]
    if after is not None:
        settings.append(f"model.init_from={toml_string(str(output_dir / after))}")
    return Cell(name, stage_name, part, seed, output_dir / name, layers, after, tuple(settings))


def _located(layers: Layers, path: Path) -> tuple[str, ...]:
    """Return layers with the names of files as the working directory sees them."""
    return tuple(_located_layers([layers] if isinstance(layers, str) else layers, path))


def _located_layers(layers: Sequence[str], path: Path) -> Iterator[str]:
    for layer in layers:
        is_file = layer.endswith(".toml") and "=" not in layer and not is_recipe(layer)
        yield str(path.parent / with_home(layer)) if is_file else layer
