"""`renaissance study check`: resolve every run of a study before any of them starts."""

from collections.abc import Mapping, Sequence

import attrs

from renaissance.commands.check import build_on_meta, estimate_run
from renaissance.commands.output import print_line, print_table
from renaissance.commands.training_rate import device_of, training_rate
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.objective import overrides
from renaissance.engine.estimate import part_sizes, training_flops
from renaissance.engine.optim import parameter_groups
from renaissance.engine.run_parts import RunParts
from renaissance.engine.starting import enable_gradient_checkpointing
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
TITLES = ("run", "parameters", "trained", "steps", "PFLOP", "time", "GiB memory", "GiB disk")


@attrs.frozen
class _Costs:
    """What a cell takes.

    Attributes:
        num_parameters: Parameters.
        num_trainable: Those that are trained.
        num_steps: Optimizer steps.
        num_samples: Samples in all steps.
        flops: Operations of a forward and a backward pass, per sample; None if unknown.
        memory: Bytes of memory of one rank; None if unknown.
        disk: Bytes of its checkpoints.
    """

    num_parameters: int
    num_trainable: int
    num_steps: int
    num_samples: int
    flops: int | None
    memory: int | None
    disk: int

    def row(self, rate: float | None) -> list[str]:
        """Return the cells of its row, at so many operations per second, if that is known."""
        flops = None if self.flops is None else self.flops * self.num_samples
        return [
            f"{self.num_parameters:,}",
            f"{100 * self.num_trainable / max(self.num_parameters, 1):.1f}%",
            f"{self.num_steps:,}",
            "?" if flops is None else _figure(flops / 1e15),
            "?" if flops is None or rate is None else _duration(flops / rate),
            "?" if self.memory is None else _figure(self.memory / 2**30),
            _figure(self.disk / 2**30),
        ]


@attrs.frozen
class _Checked:
    """What is known of a cell that can start."""

    spec: RunSpec
    settings: Mapping[str, object]
    metrics: frozenset[str]
    has_more_metrics: bool
    costs: _Costs


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
                checked[cell.name] = _check(specs[cell.name])
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


def _check(spec: RunSpec) -> _Checked:
    # Any number of ranks will do, and one always divides a batch.
    parts = build_on_meta(spec, 1)
    parameter_groups(parts.network, parts.spec.optimizer)
    if spec.model.init_from is None:
        for part in parts.network.model.parts().values():
            if isinstance(part, Encoder):
                part.check_weights()
    enable_gradient_checkpointing(parts)
    objectives = parts.network.named_objectives()
    metrics = {"loss", *(f"{name}/loss" for name in objectives)}
    for name, objective in objectives.items():
        metrics |= {f"{name}/{metric}" for metric in objective.metrics()}
    has_more = any(overrides(objective, "evaluate_split") for objective in objectives.values())
    return _Checked(spec, settings_of(parts.spec), frozenset(metrics), has_more, _costs_of(parts))


def _costs_of(parts: RunParts) -> _Costs:
    sizes = part_sizes(parts.network)
    total = sum(size.num_parameters for size in sizes)
    trainable = sum(size.num_trainable for size in sizes)
    checkpoint = FLOAT * (total + parts.spec.optimizer.states_per_parameter * trainable)
    estimate = estimate_run(parts)
    return _Costs(
        num_parameters=total,
        num_trainable=trainable,
        num_steps=parts.total_steps,
        num_samples=parts.total_steps * parts.plan.global_batch_size,
        flops=None if estimate is None else training_flops(parts.network, estimate.flops),
        memory=None if estimate is None else estimate.memory.total,
        # The last ones, and the best.
        disk=checkpoint * (parts.spec.checkpoint.keep_last + 1),
    )


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
    num_seeds = len(study.section.seeds)
    print_line(f"{len(study.cells())} runs, which are these with {num_seeds} seeds:")
    rate, note = _measured_rate(checked)
    # All are of the first seed.
    seed = f".seed-{study.section.seeds[0]}"
    rows = [[name.removesuffix(seed), *cell.costs.row(rate)] for name, cell in checked.items()]
    print_table(TITLES, rows)
    print_line(note)


def _measured_rate(checked: Mapping[str, _Checked]) -> tuple[float | None, str]:
    """Return the operations per second of the cell with the fewest, and what they are."""
    known = [(c.costs.flops, name) for name, c in checked.items() if c.costs.flops is not None]
    if not known:
        return None, "time: unknown, since no run has an estimate of its operations"
    flops, name = min(known, key=lambda one: one[0])
    spec = checked[name].spec
    device = device_of(spec).type
    try:
        rate = training_rate(spec, flops)
    # A run may need more memory than this machine has, or an operation that it lacks.
    except Exception as error:
        return None, f"time: unknown, since {name} failed on this machine's {device}: {error}"
    if rate is None:
        return None, (
            f"time: not estimated, since a sample of {name} takes {flops / 1e9:,.0f} GFLOP, too "
            "much for a CPU; check the study on a machine with a GPU"
        )
    return rate, (
        f"time: an estimate for one process on this machine's {device}, as if all runs trained at "
        f"the {rate / 1e9:,.1f} GFLOP/s that were measured now for forward and backward passes "
        f"of {name}; reading data, evaluating and saving take time, too"
    )


def _figure(value: float) -> str:
    """Return a figure with three digits that count, since estimates know no more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """Return a duration in words, in a unit that leaves few digits."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _print_differences(
    study: Study, cells: Sequence[Cell], all_settings: Mapping[str, Mapping[str, object]]
) -> None:
    for stage in stages_of(study.section):
        here = [cell for cell in cells if cell.stage == stage and cell.name in all_settings]
        rows = differing(here, all_settings)
        if rows:
            print_line(f"what differs{f' in {stage}' if stage else ''}:")
            print_table(("setting", "value", "variants"), rows)
