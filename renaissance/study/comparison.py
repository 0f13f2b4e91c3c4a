"""Compares the variants of a study, or runs, by their metrics and by the scores of samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from renaissance.engine.run_folder import RunFolder
from renaissance.engine.scores import Scores, read_scores
from renaissance.errors import did_you_mean, quoted
from renaissance.study.cells import Cell, Variant
from renaissance.study.results import read_figures
from renaissance.study.statistics import Array, Difference, holm, paired_difference
from renaissance.study.study import Study

# Float32, and sums in another order.
TOLERANCE = 1e-4


@attrs.frozen
class Measured:
    """What was measured of one run.

    Attributes:
        figures: By metric; empty if the run was not evaluated.
        scores: The scores of its samples.
    """

    figures: Mapping[str, float]
    scores: Scores

    @classmethod
    def read(cls, folder: Path, split: str) -> "Measured":
        """Read what a run folder has of a split."""
        return cls(read_figures(folder, split), read_scores(RunFolder(folder), split))

    def has(self, metric: str) -> bool:
        """Return whether a metric was measured, and is a number."""
        return math.isfinite(self.figures.get(metric, math.nan))

    def scores_of(self, metric: str) -> Array | None:
        """Return the scores of the samples, (samples,), of which a metric is the mean, if kept."""
        scores = self.scores.by_metric.get(metric)
        if scores is None or not math.isclose(
            float(scores.mean()), self.figures[metric], abs_tol=TOLERANCE
        ):
            return None
        return scores


@attrs.frozen
class Row:
    """One line of the table: a variant and a metric.

    Attributes:
        variant: The variant, with the axes that the metric depends on.
        metric: The metric.
        by_seed: Its value for each seed that was measured.
        missing: The runs that were not measured, by name.
        difference: From the baseline; None for the baseline, and where nothing is paired.
        p_corrected: The p-value with Holm's correction over the table; NaN if there is none.
        is_baseline: Whether this is the baseline.
    """

    variant: Variant
    metric: str
    by_seed: Mapping[int, float]
    missing: tuple[str, ...]
    difference: Difference | None
    p_corrected: float = math.nan
    is_baseline: bool = False

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN if nothing was measured."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; NaN with fewer than two."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def compare_variants(study: Study) -> list[Row]:
    """Return the table of a study, of what there is: metric by metric, variant by variant."""
    cells = {cell.name: cell for cell in study.cells()}
    split = study.section.report.split
    measured = {name: Measured.read(cell.folder, split) for name, cell in cells.items()}
    rows = []
    for metric in _with_controls(study.section.report.metrics, measured.values()):
        stage = _stage_of(metric, cells.values(), measured)
        if stage is not None:
            rows += _rows(study, metric, stage, cells, measured)
    return with_holm(rows)


def with_holm(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one table with their p-values corrected for each other."""
    p_values = [math.nan if row.difference is None else row.difference.p_value for row in rows]
    return [attrs.evolve(row, p_corrected=p) for row, p in zip(rows, holm(p_values), strict=True)]


def unmeasured(study: Study, rows: Sequence[Row]) -> list[str]:
    """Return the metrics of the report that no run has measured so far, and what to do."""
    in_table = {row.metric for row in rows}
    known = sorted({result.metric for result in study.results()})
    return [
        f"study.report.metrics: no run has measured {quoted(metric)}; correct it, or run the study "
        f"again; measured so far: {', '.join(known) or 'nothing'}{did_you_mean(metric, known)}"
        for metric in study.section.report.metrics
        if metric not in in_table
    ]


def difference_of(
    runs: Mapping[int, Measured], baseline: Mapping[int, Measured], metric: str, key: str
) -> Difference | None:
    """Return the paired difference of a metric; None if no seed is common to both.

    Args:
        runs: What was measured, by seed.
        baseline: The same of the baseline.
        metric: The metric.
        key: What is compared, for the draws of the bootstrap.
    """
    seeds = [seed for seed in runs if seed in baseline]
    if not seeds:
        return None
    pairs = [(runs[seed], baseline[seed]) for seed in seeds]
    by_sample = [_by_sample(ours, theirs, metric) for ours, theirs in pairs]
    known = [scores for scores in by_sample if scores is not None]
    if len(known) == len(pairs) and len({len(scores) for scores in known}) == 1:
        differences: Array = np.stack(known)
    else:
        figures = [ours.figures[metric] - theirs.figures[metric] for ours, theirs in pairs]
        differences = np.array(figures, np.float64)[:, None]
    difference = paired_difference(differences, key)
    others = any(ours.scores.data != theirs.scores.data for ours, theirs in pairs)
    if not others:
        return difference
    note = "the baseline was measured on other samples: nothing is paired by sample"
    return attrs.evolve(difference, notes=(*difference.notes, note))


def _by_sample(ours: Measured, theirs: Measured, metric: str) -> Array | None:
    """Return the differences of samples, if both have the scores of the same samples."""
    scores, others = ours.scores_of(metric), theirs.scores_of(metric)
    if scores is None or others is None or ours.scores.data != theirs.scores.data:
        return None
    return scores - others if len(scores) == len(others) else None


def _with_controls(metrics: Sequence[str], measured: Iterable[Measured]) -> list[str]:
    names = dict.fromkeys(name for run in measured for name in run.figures)
    return [
        name
        for metric in metrics
        for name in (metric, *(n for n in names if n.startswith(f"{metric}@")))
    ]


def _stage_of(metric: str, cells: Iterable[Cell], measured: Mapping[str, Measured]) -> str | None:
    """Return the last stage that measures a metric; None if none did."""
    stages = [cell.stage for cell in cells if metric in measured[cell.name].figures]
    return stages[-1] if stages else None


def _rows(
    study: Study,
    metric: str,
    stage: str,
    cells: Mapping[str, Cell],
    measured: Mapping[str, Measured],
) -> list[Row]:
    def runs_of(variant: Variant) -> dict[int, str]:
        return {seed: study.cell_of(stage, variant, seed) for seed in study.section.seeds}

    def with_metric(runs: Mapping[int, str]) -> dict[int, Measured]:
        found = {seed: measured[name] for seed, name in runs.items()}
        return {seed: run for seed, run in found.items() if run.has(metric)}

    baseline = runs_of(study.baseline)
    rows: dict[str, Row] = {}
    for variant in study.variants:
        runs = runs_of(variant)
        first = next(iter(runs.values()))
        # A stage that depends on fewer axes has one run for several variants.
        if first in rows:
            continue
        found = with_metric(runs)
        part = cells[first].variant
        key = f"{study.section.name}/{part.name}/{metric}"
        is_baseline = runs == baseline
        rows[first] = Row(
            part,
            metric,
            {seed: run.figures[metric] for seed, run in found.items()},
            tuple(name for seed, name in runs.items() if seed not in found),
            None if is_baseline else difference_of(found, with_metric(baseline), metric, key),
            is_baseline=is_baseline,
        )
    return list(rows.values())
