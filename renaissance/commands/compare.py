"""`renaissance compare`: how evaluated runs differ, in their specs and sample by sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli
import typer
from PIL import ImageOps

from renaissance.commands.output import print_line, print_table
from renaissance.data.contact_sheet import CELL, draw_sheet
from renaissance.data.images import decoded, to_rgb
from renaissance.data.open_image import COMMAND_LIMITS
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import build_datasets
from renaissance.errors import SpecError, shortened
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.write import settings
from renaissance.study.cells import Variant
from renaissance.study.comparison import Measured, Row, difference_of, with_holm
from renaissance.study.specs import OWN
from renaissance.study.statistics import Difference
from renaissance.study.table import TITLES, notes_of, table_rows

NUM_SHOWN = 12


def compare_runs(folders: Sequence[Path], split: str, sheet: Path | None, trust: bool) -> None:
    """Print what differs between runs, the first of which is the baseline.

    Args:
        folders: The run folders.
        split: Split that all were evaluated on.
        sheet: File to draw the samples in on which they disagree most; None for none.
        trust: Whether to run the Python files that the first run names.

    Raises:
        SpecError: If there is nothing to compare.
    """
    faults = [
        f"{path}: no spec.toml there; expected a run folder (runs/NAME)"
        for path in folders
        if not RunFolder(path).spec.is_file()
    ]
    if len(folders) < 2:
        faults.append(f"got {len(folders)} run folder, expected at least two to compare")
    measured = [Measured.read(path, split) for path in folders]
    faults += [
        f"{path}: not evaluated on '{split}'; run `renaissance evaluate {path} --split {split}`"
        for path, run in zip(folders, measured, strict=True)
        if not run.figures
    ]
    if faults:
        raise SpecError(*dict.fromkeys(faults))
    names = _names(folders)
    _print_specs(names, folders)
    rows = _rows(names, measured, split)
    print_table(TITLES, table_rows(rows))
    for note in notes_of(rows):
        print_line(f"note: {note}")
    if sheet is not None:
        _draw(sheet, names, folders, measured, split, trust)


def _names(folders: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in folders]
    return names if len(set(names)) == len(names) else list(map(str, folders))


def _print_specs(names: Sequence[str], folders: Sequence[Path]) -> None:
    tables = [dict(settings(tomli.loads(RunFolder(path).spec.read_text()))) for path in folders]
    paths = dict.fromkeys(path for table in tables for path in table if path not in OWN)
    rows = [
        (path, *(shortened(str(table.get(path, "-")), 40) for table in tables))
        for path in paths
        if len({str(table.get(path)) for table in tables}) > 1
    ]
    if rows:
        print_table(("setting", *names), rows)
    else:
        print_line("the specs do not differ")


def _rows(names: Sequence[str], measured: Sequence[Measured], split: str) -> list[Row]:
    baseline, *others = measured
    rows = []
    for metric in filter(baseline.has, baseline.figures):
        first = {0: baseline}
        rows.append(_row(names[0], metric, baseline, None))
        for name, run in zip(names[1:], others, strict=True):
            if run.has(metric):
                # Of one seed each: whichever it was, the runs are compared as they are.
                difference = difference_of({0: run}, first, metric, f"{name}/{split}")
                rows.append(_row(name, metric, run, difference))
    return with_holm(rows)


def _row(name: str, metric: str, run: Measured, difference: Difference | None) -> Row:
    return Row(
        variant=Variant({"run": name}),
        metric=metric,
        by_seed={0: run.figures[metric]},
        missing=(),
        difference=difference,
        is_baseline=difference is None,
    )


def _draw(
    sheet: Path,
    names: Sequence[str],
    folders: Sequence[Path],
    measured: Sequence[Measured],
    split: str,
    trust: bool,
) -> None:
    shared = _shared_scores(measured)
    if not shared:
        raise SpecError(
            "--sheet: the runs have no scores of the same samples; evaluate all of them on the "
            "same data with the same run.seed"
        )
    metric, scores = next(iter(shared.items()))
    arguments = RunFolder(folders[0].resolve()).spec_arguments()
    spec = load_spec(arguments, load_plugins(), trust)
    choices, where = (
        (spec.data.train, "data.train")
        if split == "train"
        else (spec.data.validate, "data.validate")
    )
    datasets = build_datasets(spec, choices, where)
    if len(datasets) != scores.shape[1]:
        raise SpecError(
            f"--sheet: {metric} has scores of {scores.shape[1]} samples, but the data of the spec "
            f"has {len(datasets)}; compare a split that is evaluated as a whole"
        )
    # The largest spread first; of equal ones, in the order of the split.
    spread = scores.max(0) - scores.min(0)
    order = np.argsort(-spread, kind="stable")[:NUM_SHOWN]
    cells = []
    for index in [int(index) for index in order if spread[index] > 0]:
        sample = datasets.sample(spec.run.seed, 0, index)
        if sample.images:
            picture = decoded(sample.images[0], COMMAND_LIMITS, sample.source, to_rgb)
            lines = [f"{n}: {s:.2f}" for n, s in zip(names, scores[:, index], strict=True)]
            texts = [*lines, sample.text or ""]
            cells.append((str(index), texts, ImageOps.pad(picture, (CELL, CELL), color="white")))
    if not cells:
        print_line(f"--sheet: the runs agree on every sample ({metric}); nothing is drawn")
        return
    draw_sheet(cells).save(sheet)
    typer.echo(f"written: {sheet}, by {metric}")


def _shared_scores(measured: Sequence[Measured]) -> Mapping[str, "np.ndarray[Any, Any]"]:
    """Return the scores that all runs have of the same samples: (runs, samples), by metric."""
    if len({run.scores.data for run in measured}) > 1:
        return {}
    stacked = {}
    for metric, first in measured[0].scores.by_metric.items():
        others = [run.scores.by_metric.get(metric) for run in measured]
        known = [scores for scores in others if scores is not None and len(scores) == len(first)]
        if len(known) == len(measured):
            stacked[metric] = np.stack(known)
    return stacked
