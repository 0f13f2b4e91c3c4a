"""The pictures of a report, which need matplotlib: the extra `plots`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from renaissance.engine.run_folder import RunFolder
from renaissance.errors import RunError
from renaissance.study.comparison import Row
from renaissance.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
# Inches of one chart.
WIDTH, HEIGHT = 4.6, 3.2
# Colours of Okabe and Ito, which people with colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def draw_curves(study: Study, rows: Sequence[Row], path: Path) -> bool:
    """Draw each metric over the steps of training: the mean over seeds, with a band of one
    standard deviation.

    Args:
        study: The study.
        rows: The rows of its table.
        path: File to write.

    Returns:
        Whether there was anything to draw.
    """
    by_metric = _by_metric([row for row in rows if "@" not in row.metric])
    curves = {
        metric: [(row.variant.name, _curve(study, row)) for row in group]
        for metric, group in by_metric.items()
    }
    if not any(curve for group in curves.values() for _, curve in group):
        return False
    figure, axes = _charts(len(curves))
    for axis, (metric, group) in zip(axes, curves.items(), strict=True):
        for index, (name, curve) in enumerate(group):
            steps = sorted(curve)
            means = np.array([np.mean(curve[step]) for step in steps])
            spread = np.array([np.std(curve[s], ddof=1) if len(curve[s]) > 1 else 0 for s in steps])
            colour = COLOURS[index % len(COLOURS)]
            axis.plot(steps, means, color=colour, label=name, marker=".", linewidth=1.4)
            axis.fill_between(
                steps, means - spread, means + spread, color=colour, alpha=0.15, linewidth=0
            )
        _label(axis, metric, "step")
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=DPI)
    return True


def draw_bars(rows: Sequence[Row], path: Path) -> bool:
    """Draw the mean of each metric of each variant, its seeds, and the interval of the difference.

    The interval is drawn around the mean of the variant: if it does not reach the line of the
    baseline, it does not contain 0.

    Args:
        rows: The rows of the table.
        path: File to write.

    Returns:
        Whether there was anything to draw.
    """
    by_metric = _by_metric([row for row in rows if row.by_seed])
    if not by_metric:
        return False
    longest = max(len(group) for group in by_metric.values())
    figure, axes = _charts(len(by_metric), height=1.4 + 0.32 * longest)
    for axis, (metric, group) in zip(axes, by_metric.items(), strict=True):
        positions = np.arange(len(group))[::-1]
        for position, row in zip(positions, group, strict=True):
            colour = "#999999" if row.is_baseline else COLOURS[0]
            # A point: a bar would have to start at 0, where differences cannot be seen.
            axis.plot(row.mean, position, "o", color=colour, markersize=8)
            values = list(row.by_seed.values())
            axis.plot(values, [position] * len(values), "|", color="black", alpha=0.5, markersize=7)
            if row.is_baseline:
                axis.axvline(row.mean, color="#555555", linewidth=0.9, linestyle="--")
            difference = row.difference
            if difference is not None and not math.isnan(difference.low):
                # What the variant would have if the difference were at an end of its interval.
                start = row.mean - difference.mean
                ends = [start + difference.low, start + difference.high]
                axis.plot(ends, [position, position], color="black", linewidth=1.6)
        axis.set_yticks(positions, [row.variant.name for row in group], fontsize=8)
        axis.set_ylim(-0.6, len(group) - 0.4)
        _zoom(axis, group)
        _label(axis, metric, "mean over seeds, 95% interval of the difference")
    figure.savefig(path, dpi=DPI)
    return True


def _zoom(axis: "Axes", group: Sequence[Row]) -> None:
    """Show the part of the scale in which the variants differ."""
    ends = [value for row in group for value in row.by_seed.values()]
    for row in group:
        if row.difference is not None and not math.isnan(row.difference.low):
            start = row.mean - row.difference.mean
            ends += [start + row.difference.low, start + row.difference.high]
    margin = 0.15 * (max(ends) - min(ends)) or 0.1 * abs(max(ends)) or 1.0
    axis.set_xlim(min(ends) - margin, max(ends) + margin)


def _label(axis: "Axes", title: str, below: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(below, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _charts(count: int, height: float = HEIGHT) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError(
            "the pictures of a report need matplotlib; run pip install matplotlib"
        ) from error
    figure = Figure(figsize=(WIDTH * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _by_metric(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.metric, []).append(row)
    return groups


def _curve(study: Study, row: Row) -> dict[int, list[float]]:
    """Return the values of all seeds at each step that was evaluated during training."""
    curve: dict[int, list[float]] = {}
    for cell in study.cells():
        if cell.variant == row.variant:
            for line in read_lines(RunFolder(cell.folder).metrics):
                if line.get("split") == "validate" and row.metric in line:
                    curve.setdefault(int(line["step"]), []).append(float(line[row.metric]))
    return curve


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; none if there is no such file."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    # A killed run may have left half a line.
    except (OSError, ValueError):
        return []
