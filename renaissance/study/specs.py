"""The specs of a study's cells: what differs between them, and what should but does not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from renaissance.errors import SpecError, shortened
from renaissance.plugins.loading import Plugins
from renaissance.spec.read import load_spec
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import record_tables, settings
from renaissance.study.cells import Cell, Variant
from renaissance.study.sections import Pattern
from renaissance.study.study import Study

# By key path.
Settings: TypeAlias = Mapping[str, Any]
# Every cell has its own; they make no difference to what it computes.
OWN = ("run.name", "run.output_dir")
# How many cells a message names.
NUM_NAMED = 3


def first_cells(study: Study) -> list[Cell]:
    """Return the cells of the first seed: those of another differ in the seed alone."""
    return [cell for cell in study.cells() if cell.seed == study.section.seeds[0]]


def read_cells(cells: Iterable[Cell], plugins: Plugins) -> tuple[dict[str, RunSpec], list[str]]:
    """Return the specs of the cells that can be read, by name, and the faults of the others."""
    specs: dict[str, RunSpec] = {}
    faults: dict[str, list[str]] = {}
    for cell in cells:
        try:
            specs[cell.name] = load_spec(cell.arguments, plugins)
        except SpecError as error:
            for fault in error.faults:
                faults.setdefault(fault, []).append(cell.name)
    return specs, merged(faults)


def merged(faults: Mapping[str, Sequence[str]]) -> list[str]:
    """Return faults with the cells that have them, each fault once."""
    return [f"{_named(names)}: {fault}" for fault, names in faults.items()]


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """Return what a spec computes with, by key path."""
    tables = settings(record_tables(spec))
    return {path: value for path, value in tables if path not in OWN}


def idle_axes(study: Study, specs: Mapping[str, RunSpec], plugins: Plugins) -> list[str]:
    """Return the values of axes that change no setting in any cell."""
    changes: dict[tuple[str, str], bool] = {}
    for cell in first_cells(study):
        for axis, value in cell.variant.values.items():
            added = cell.layers[axis]
            if not added or cell.name not in specs or changes.get((axis, value)):
                continue
            try:
                without = load_spec(cell.arguments_without(axis), plugins)
                changes[axis, value] = without != specs[cell.name]
            # It cannot be read without that value, so the value does change something.
            except SpecError:
                changes[axis, value] = True
    return [
        f"study.axes.{axis}.{value}: changes nothing: every cell has the same settings without "
        f"{', '.join(_layers(study, axis, value))}; correct it, or remove it"
        for (axis, value), is_change in changes.items()
        if not is_change
    ]


def equal_cells(cells: Iterable[Cell], all_settings: Mapping[str, Settings]) -> list[str]:
    """Return the cells that compute the same as another.

    Args:
        cells: Cells of one seed.
        all_settings: The settings of each, by its name.
    """
    seen: list[Cell] = []
    faults = []
    for cell in cells:
        if cell.name not in all_settings:
            continue
        twin = next((o for o in seen if all_settings[o.name] == all_settings[cell.name]), None)
        if twin is None:
            seen.append(cell)
            continue
        where = f" (or list in study.stage.{cell.stage}.axes only what it depends on)"
        faults.append(
            f"{cell.name}: has the same settings as {twin.name}; exclude one of them"
            f"{where if cell.stage else ''}"
        )
    return faults


def differing(
    cells: Sequence[Cell], all_settings: Mapping[str, Settings]
) -> list[tuple[str, str, str]]:
    """Return the settings that are not the same in all cells.

    Args:
        cells: Cells of one stage and one seed.
        all_settings: The settings of each, by its name.

    Returns:
        Key path, value, and which variants have it: by values of axes where that says it, else by
        their names.
    """
    tables = [all_settings[cell.name] for cell in cells]
    paths = dict.fromkeys(path for table in tables for path in table)
    rows: list[tuple[str, str, str]] = []
    for path in paths:
        having: dict[str, list[Variant]] = {}
        for cell, table in zip(cells, tables, strict=True):
            having.setdefault(_shown(table.get(path)), []).append(cell.variant)
        if len(having) > 1:
            variants = [cell.variant for cell in cells]
            rows += [(path, value, _common(some, variants)) for value, some in having.items()]
    return rows


def _common(some: Sequence[Variant], variants: Sequence[Variant]) -> str:
    """Return the values of axes that some of the variants have and no other has."""

    def say_it(pattern: Pattern) -> bool:
        return [variant for variant in variants if variant.matches(pattern)] == list(some)

    pattern: dict[str, str | tuple[str, ...]] = {
        axis: tuple(dict.fromkeys(variant.values[axis] for variant in some))
        for axis in some[0].values
    }
    if not say_it(pattern):
        return ", ".join(variant.name for variant in some)
    for axis in some[0].values:
        fewer = {other: values for other, values in pattern.items() if other != axis}
        if say_it(fewer):
            pattern = fewer
    return ", ".join(f"{axis} = {' or '.join(values)}" for axis, values in pattern.items())


def unknown_objectives(study: Study, specs: Mapping[str, RunSpec]) -> list[str]:
    """Return the metrics of the report that no cell can have, by the name of their objective."""
    names = dict.fromkeys(o.name for spec in specs.values() for o in spec.objectives)
    return [
        f"study.report.metrics: no cell reports {metric!r}; the objectives are "
        f"{', '.join(names)}, and a metric is named after one, such as '{next(iter(names))}/loss'"
        for metric in study.section.report.metrics
        if metric != "loss" and metric.partition("/")[0] not in names and names
    ]


def _layers(study: Study, axis: str, value: str) -> Sequence[str]:
    layers = study.section.axes[axis][value]
    return [layers] if isinstance(layers, str) else layers


def _shown(value: object) -> str:
    return "-" if value is None else shortened(str(value), 40)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
