"""`renaissance study run` and `study list`."""

import os
from collections.abc import Sequence

import torch
import typer

from renaissance.commands.output import print_line, print_table
from renaissance.errors import SpecError, did_you_mean, quoted
from renaissance.plugins.loading import load_plugins
from renaissance.study import Cell, Study
from renaissance.study.pool import Pool
from renaissance.study.running import CellJob, stale_runs
from renaissance.study.specs import equal_cells, first_cells, idle_axes, read_cells, settings_of
from renaissance.study.states import failure_of, progress_of


def run_study(
    study: Study, num_jobs: int | None, gpus_per_run: int | None, names: Sequence[str]
) -> int:
    """Run what is not finished.

    Args:
        study: The study.
        num_jobs: Runs at once; None for as many as the GPUs allow.
        gpus_per_run: GPUs of each run; None for one, if there are any.
        names: Only these runs and those they start from; empty for all.

    Returns:
        The exit code: 0, 1 if a run failed, or 128 plus the signal that stopped it.

    Raises:
        SpecError: If a run cannot be read, or was finished with another spec.
    """
    cells = _chosen(study, names)
    plugins = load_plugins()
    specs, faults = read_cells(study.cells(), plugins)
    all_settings = {name: settings_of(spec) for name, spec in specs.items()}
    faults += idle_axes(study, specs, plugins) + equal_cells(first_cells(study), all_settings)
    faults += stale_runs(study, plugins)
    if faults:
        raise SpecError(*faults)
    slots, ranks = _slots(num_jobs, gpus_per_run)
    report = study.section.report
    jobs = [CellJob(cell, report, ranks) for cell in cells]
    waiting = [job for job in jobs if progress_of(job.cell, report.split).state != "finished"]
    print_line(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished")
    # One that is finished is no longer waited for.
    pool = Pool(slots, lambda line: typer.echo(line))
    code = pool.run(waiting)
    for name, reason in pool.failed.items():
        print_line(f"failed: {name}: {reason}")
    return code


def list_study(study: Study) -> None:
    """Print how far each run is."""
    rows = []
    for cell in study.cells():
        progress = progress_of(cell, study.section.report.split)
        steps = "" if progress.total_steps is None else f"{progress.step}/{progress.total_steps}"
        rows.append((cell.name, progress.state, steps, failure_of(cell.folder)))
    print_table(("run", "state", "step", ""), rows)


def _chosen(study: Study, names: Sequence[str]) -> list[Cell]:
    """Return the named cells and those they start from; all if none is named."""
    cells = {cell.name: cell for cell in study.cells()}
    unknown = [
        f"--cell: there is no run {quoted(name)}{did_you_mean(name, cells)}; `renaissance study "
        "list` shows them"
        for name in names
        if name not in cells
    ]
    if unknown:
        raise SpecError(*unknown)
    chosen: set[str] = set()
    for name in names or cells:
        step: str | None = name
        while step is not None:
            chosen.add(step)
            step = cells[step].after
    return [cell for cell in cells.values() if cell.name in chosen]


def _slots(
    num_jobs: int | None, gpus_per_run: int | None
) -> tuple[list[str | None], tuple[str, ...]]:
    """Return the devices of each run at once, and the arguments for its ranks."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    num_gpus = torch.cuda.device_count()
    gpus = visible.split(",")[:num_gpus] if visible else [str(index) for index in range(num_gpus)]
    size = gpus_per_run or 1
    if gpus_per_run is not None and size > len(gpus):
        raise SpecError(
            f"--gpus-per-run: got {size}, but this machine has {len(gpus)} GPUs; give fewer, or "
            "leave it out"
        )
    if not gpus:
        return [None] * (num_jobs or 1), ()
    groups: list[str | None] = [
        ",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)
    ]
    ranks = ("--ranks", str(size)) if size > 1 else ()
    if num_jobs is None or num_jobs <= len(groups):
        return groups[:num_jobs], ranks
    # More runs than groups: they share the GPUs.
    return [groups[index % len(groups)] for index in range(num_jobs)], ranks
