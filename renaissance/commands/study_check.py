"""`renaissance study check`: resolve every run of a study before any of them starts."""

from collections.abc import Mapping, Sequence

import attrs

from renaissance.commands.check import build_on_meta, estimate_run
from renaissance.commands.output import print_line, print_table
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.objective import overrides
from renaissance.engine.estimate import part_sizes
from renaissance.engine.optim import parameter_groups
from renaissance.engine.run_parts import RunParts
from renaissance.errors import RenaissanceError, SpecError
from renaissance.plugins.loading import load_plugins
from renaissance.spec.sections import RunSpec
from renaissance.study import Cell, Study
from renaissance.study.cells import stages_of
from renaissance.study.running import stale_runs
from renaissance.study.specs import (
    differing,
    equal_cells,
    first_cells,
    idle_axes,
    merged,
    read_cells,
    settings_of,
    unknown_objectives,
)

# Bytes of a parameter, and of each value that the optimizer keeps for it.
FLOAT = 4


@attrs.frozen
class _Checked:
    """What is known of a cell that can start."""

    settings: Mapping[str, object]
    metrics: frozenset[str]
    has_more_metrics: bool
    row: Sequence[str]


def check_study(study: Study) -> None:
    """Print what each run of a study takes and what differs between them.

    Raises:
        SpecError: With every fault of every run.
    """
    plugins = load_plugins()
    cells = first_cells(study)
    specs, faults = read_cells(cells, plugins)
    checked: dict[str, _Checked] = {}
    faults_of: dict[str, list[str]] = {}
    for cell in cells:
        if cell.name in specs:
            try:
                checked[cell.name] = _check(cell, specs[cell.name])
            except RenaissanceError as error:
                texts = error.faults if isinstance(error, SpecError) else [str(error)]
                for text in texts:
                    faults_of.setdefault(text, []).append(cell.name)
    all_settings = {
        name: checked[name].settings if name in checked else settings_of(spec)
        for name, spec in specs.items()
    }
    faults += merged(faults_of)
    faults += idle_axes(study, specs, plugins)
    faults += equal_cells(cells, all_settings)
    faults += unknown_objectives(study, specs) or _unknown_metrics(study, checked)
    faults += stale_runs(study, plugins)
    _print_costs(study, checked)
    _print_differences(study, cells, all_settings)
    if faults:
        raise SpecError(*faults)
    print_line(f"ok: these {len(study.cells())} runs can start")


def _check(cell: Cell, spec: RunSpec) -> _Checked:
    # Any number of ranks will do, and one always divides a batch.
    parts = build_on_meta(spec, 1)
    parameter_groups(parts.network, parts.spec.optimizer)
    if spec.model.init_from is None:
        for part in parts.network.model.parts().values():
            if isinstance(part, Encoder):
                part.check_weights()
    objectives = parts.network.named_objectives()
    metrics = {"loss", *(f"{name}/loss" for name in objectives)}
    for name, objective in objectives.items():
        metrics |= {f"{name}/{metric}" for metric in objective.metrics()}
    has_more = any(overrides(objective, "evaluate_split") for objective in objectives.values())
    return _Checked(
        settings_of(parts.spec), frozenset(metrics), has_more, [cell.name, *_costs(parts)]
    )


def _costs(parts: RunParts) -> list[str]:
    sizes = part_sizes(parts.network)
    total = sum(size.num_parameters for size in sizes)
    trainable = sum(size.num_trainable for size in sizes)
    states = parts.spec.optimizer.states_per_parameter
    checkpoint = FLOAT * (total + states * trainable)
    # The last ones, and the best.
    disk = checkpoint * (parts.spec.checkpoint.keep_last + 1)
    estimate = estimate_run(parts)
    flops, memory = "?", "?"
    if estimate is not None:
        # A backward pass takes about twice as many as a forward pass.
        samples = parts.total_steps * parts.plan.global_batch_size
        flops = f"{3 * sum(estimate.flops.values()) * samples / 1e15:,.3f}"
        memory = f"{estimate.memory.total / 2**20:,.0f}"
    return [
        f"{total:,}",
        f"{100 * trainable / max(total, 1):.1f}%",
        f"{parts.total_steps:,}",
        flops,
        memory,
        f"{disk / 2**20:,.0f}",
    ]


def _unknown_metrics(study: Study, checked: Mapping[str, _Checked]) -> list[str]:
    # The names of metrics of a whole split are known only once they are measured.
    if not checked or any(cell.has_more_metrics for cell in checked.values()):
        return []
    known = sorted(set[str]().union(*(cell.metrics for cell in checked.values())))
    return [
        f"study.report.metrics: no cell reports {metric!r}; expected one of {', '.join(known)}"
        for metric in study.section.report.metrics
        if metric not in known
    ]


def _print_costs(study: Study, checked: Mapping[str, _Checked]) -> None:
    if not checked:
        return
    titles = ("run", "parameters", "trainable", "steps", "PFLOP", "MiB of memory", "MiB of disk")
    num_seeds = len(study.section.seeds)
    print_line(f"{len(study.cells())} runs, which are these with {num_seeds} seeds:")
    print_table(titles, [cell.row for cell in checked.values()])


def _print_differences(
    study: Study, cells: Sequence[Cell], all_settings: Mapping[str, Mapping[str, object]]
) -> None:
    for stage in stages_of(study.section):
        here = [cell for cell in cells if cell.stage == stage and cell.name in all_settings]
        rows = differing(here, all_settings)
        if rows:
            print_line(f"what differs{f' in {stage}' if stage else ''}:")
            names = [cell.variant.name for cell in here]
            print_table(("setting", *names), [(path, *values) for path, values in rows.items()])
