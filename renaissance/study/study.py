"""Reading a study file."""

from pathlib import Path

import attrs
import tomli

from renaissance.errors import SpecError, did_you_mean, quoted
from renaissance.files import with_home
from renaissance.spec.recipes import is_recipe, recipe_path
from renaissance.spec.structure import structure_section
from renaissance.study.cells import Cell, Variant, axes_of, cell_name, cells_of, variants_of
from renaissance.study.results import Result, read_results
from renaissance.study.sections import Pattern, StageSection, StudyFile, StudySection


@attrs.frozen
class Study:
    """A study, as its file describes it.

    Attributes:
        path: The file.
        section: What it says.
        variants: What is compared.
        baseline: The variant that the others are compared with.
    """

    path: Path
    section: StudySection
    variants: tuple[Variant, ...]
    baseline: Variant

    @classmethod
    def read(cls, path: str | Path) -> "Study":
        """Read a study file; relative names in it start from its folder.

        Args:
            path: The file, or "recipe:studies/NAME".

        Raises:
            SpecError: With every fault of the file.
        """
        name = str(path)
        path = recipe_path(name) if is_recipe(name) else Path(with_home(name))
        section = structure_section(_tables(path), StudyFile, str(path)).study
        faults = [*_axis_faults(section), *_stage_faults(section)]
        variants = variants_of(section)
        if not variants:
            faults.append("study.exclude: no variant is left; expected at least one")
        wanted = section.report.baseline
        matching = [variant for variant in variants if variant.values == wanted]
        if wanted and not matching and variants:
            known = "; ".join(_shown(variant.values) for variant in variants)
            faults.append(
                f"study.report.baseline: got {_shown(wanted)}, which is not a variant; expected "
                f"one of: {known}"
            )
        if faults:
            raise SpecError(*(f"{path}: {fault}" for fault in faults))
        return cls(path, section, tuple(variants), (matching or variants)[0])

    @property
    def folder(self) -> Path:
        """The folder of the study's runs and of its report."""
        return Path(self.section.output_dir) / self.section.name

    def cells(self) -> list[Cell]:
        """Return the runs, each once, those that others start from first."""
        return cells_of(self.section, self.path, self.variants)

    def cell_of(self, stage: str, variant: Variant, seed: int) -> str:
        """Return the name of the run of a variant with a seed in a stage."""
        return cell_name(self.section, stage, variant, seed)

    def results(self) -> list[Result]:
        """Return what was measured so far: one row per run and metric."""
        return [
            result
            for cell in self.cells()
            for result in read_results(cell, self.section.report.split)
        ]


def _tables(path: Path) -> dict[str, object]:
    try:
        tables = tomli.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}; name a study file") from error
    except tomli.TOMLDecodeError as error:
        raise SpecError(f"{path}: line {error.lineno}: {error.msg}") from error
    study = tables.get("study")
    # One pattern may be written as a table.
    for key in ("include", "exclude"):
        if isinstance(study, dict) and isinstance(study.get(key), dict):
            study[key] = [study[key]]
    return tables


def _axis_faults(study: StudySection) -> list[str]:
    """Return the patterns that name an axis or a value that is not there."""
    patterns: list[tuple[str, Pattern]] = [
        (f"study.{key}[{index}]", pattern)
        for key in ("include", "exclude")
        for index, pattern in enumerate(getattr(study, key))
    ]
    faults = []
    for where, pattern in [*patterns, ("study.report.baseline", study.report.baseline)]:
        for axis, wanted in pattern.items():
            if axis not in study.axes:
                faults.append(f"{where}: {_unknown('axis', axis, list(study.axes))}")
                continue
            for value in [wanted] if isinstance(wanted, str) else wanted:
                if value not in study.axes[axis]:
                    known = list(study.axes[axis])
                    faults.append(f"{where}.{axis}: {_unknown('value', value, known)}")
    return faults


def _stage_faults(study: StudySection) -> list[str]:
    faults = [
        f"study.stage: {_unknown('stage', name, list(study.stages))}; add it to study.stages, or "
        "remove its table"
        for name in study.stage
        if name not in study.stages
    ]
    for index, name in enumerate(study.stages):
        stage = study.stage.get(name, StageSection())
        earlier = list(study.stages[:index])
        if stage.after is not None and stage.after not in earlier:
            faults.append(
                f"study.stage.{name}.after: got {quoted(stage.after)}, expected an earlier stage: "
                f"{', '.join(earlier) or 'there is none'}"
            )
            continue
        unknown = [axis for axis in stage.axes or () if axis not in study.axes]
        faults += [
            f"study.stage.{name}.axes: {_unknown('axis', axis, list(study.axes))}"
            for axis in unknown
        ]
        after = stage.after or (earlier[-1] if earlier else None)
        before = () if after is None else axes_of(study, study.stage.get(after, StageSection()))
        missing = [axis for axis in before if axis not in axes_of(study, stage)]
        if missing:
            faults.append(
                f"study.stage.{name}.axes: lacks {', '.join(missing)}, on which the stage "
                f"'{after}' that it starts from depends; add it"
            )
    return faults


def _unknown(what: str, name: str, known: list[str]) -> str:
    return (
        f"there is no {what} {quoted(name)}; known: {', '.join(known) or 'none'}"
        f"{did_you_mean(name, known)}"
    )


def _shown(values: Pattern) -> str:
    return ", ".join(f"{axis} = {value}" for axis, value in values.items())
