"""What the runs of a study measured, read from their folders."""

import math
from collections.abc import Iterator
from pathlib import Path

import attrs

from renaissance.engine.run_folder import RunFolder
from renaissance.files import read_json
from renaissance.study.cells import Cell


@attrs.frozen
class Result:
    """One figure of one run.

    Attributes:
        cell: Name of the run.
        stage: Name of the stage; empty in a study without stages.
        values: The value of each axis that the run depends on.
        seed: The seed.
        metric: Name of the metric, such as "itm/accuracy"; with "@" and a control for one that was
            measured without images or texts.
        value: The figure.
        folder: The run folder.
    """

    cell: str
    stage: str
    values: dict[str, str]
    seed: int
    metric: str
    value: float
    folder: Path


def read_results(cell: Cell, split: str) -> list[Result]:
    """Return the figures of one run; none if it was not evaluated on the split."""
    return [
        Result(
            cell.name, cell.stage, dict(cell.variant.values), cell.seed, name, value, cell.folder
        )
        for name, value in read_figures(cell.folder, split).items()
    ]


def read_figures(folder: Path, split: str) -> dict[str, float]:
    """Return what `renaissance evaluate` measured in a run folder, by metric."""
    measured = read_json(RunFolder(folder).results).get(split)
    return dict(_figures(measured)) if isinstance(measured, dict) else {}


def _figures(measured: dict[str, object]) -> Iterator[tuple[str, float]]:
    controls = measured.get("controls")
    tables = {"": measured.get("metrics"), **(controls if isinstance(controls, dict) else {})}
    for control, metrics in tables.items():
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            figure = float(value) if isinstance(value, int | float) else math.nan
            yield (f"{name}@{control}" if control else name), figure
