"""The table of a comparison: as text, Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Sequence

from renaissance.study.comparison import Row

TITLES = ("variant", "metric", "seeds", "mean", "sd", "difference", "95% interval", "p", "p (Holm)")
# Of an absent figure.
GAP = "-"


def table_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of the table, in the order of `TITLES`; gaps are marked."""
    return [_cells(row) for row in rows]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Return what must be known to read the table: gaps, and intervals that mean little."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        where = f"{row.variant.name} {row.metric}"
        if row.missing:
            texts.setdefault(f"not measured: {', '.join(row.missing)}", []).append(where)
        for note in row.difference.notes if row.difference else ():
            texts.setdefault(note, []).append(where)
    return [f"{', '.join(where)}: {text}" for text, where in texts.items()]


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = [TITLES, tuple("-" for _ in TITLES), *table_rows(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV with all digits, one column per axis; gaps are empty."""
    axes = list(dict.fromkeys(axis for row in rows for axis in row.variant.values))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = ("num_seeds", "mean", "sd", "difference", "low", "high", "p", "p_holm", "num_samples")
    writer.writerow([*axes, "metric", *figures, "notes"])
    for row in rows:
        values = [row.variant.values.get(axis, "") for axis in axes]
        writer.writerow([*values, row.metric, *_figures(row)])
    return file.getvalue()


def to_latex(rows: Sequence[Row]) -> str:
    r"""Return the table in LaTeX, for the package booktabs: `\usepackage{booktabs}`."""
    lines = [r"\begin{tabular}{ll" + "r" * (len(TITLES) - 2) + "}", r"\toprule"]
    lines += [f"{' & '.join(map(_escaped, TITLES))} \\\\", r"\midrule"]
    previous = rows[0].metric if rows else ""
    for row in rows:
        if row.metric != previous:
            lines.append(r"\midrule")
            previous = row.metric
        lines.append(f"{' & '.join(map(_escaped, _cells(row)))} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cells(row: Row) -> tuple[str, ...]:
    num_seeds = len(row.by_seed)
    seeds = str(num_seeds)
    if row.missing:
        seeds += f" of {num_seeds + len(row.missing)}"
    name = f"{row.variant.name} (baseline)" if row.is_baseline else row.variant.name
    difference = row.difference
    if difference is None:
        compared = [GAP, GAP, GAP, GAP]
    else:
        interval = GAP
        if not math.isnan(difference.low):
            interval = f"[{difference.low:+.4f}, {difference.high:+.4f}]"
        compared = [
            f"{difference.mean:+.4f}",
            interval,
            _p(difference.p_value),
            _p(row.p_corrected),
        ]
    return (name, row.metric, seeds, _shown(row.mean), _shown(row.deviation), *compared)


def _figures(row: Row) -> list[object]:
    difference = row.difference
    compared: list[float | int | str] = ["", "", "", "", "", ""]
    if difference is not None:
        figures = (difference.mean, difference.low, difference.high, difference.p_value)
        compared = [*map(_number, (*figures, row.p_corrected)), difference.num_samples]
    notes = [*(difference.notes if difference else ())]
    if row.missing:
        notes.append(f"not measured: {', '.join(row.missing)}")
    return [
        len(row.by_seed),
        _number(row.mean),
        _number(row.deviation),
        *compared,
        "; ".join(notes),
    ]


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _shown(value: float) -> str:
    return GAP if math.isnan(value) else f"{value:.4f}"


def _p(value: float) -> str:
    return GAP if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return "--" if text == GAP else text.replace("<", "$<$")
