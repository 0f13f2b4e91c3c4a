"""What `renaissance evaluate` prints and writes."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from renaissance.commands.output import print_figures
from renaissance.engine.evaluate import SplitResult
from renaissance.engine.manifest import model_sha256
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.recorded import Changes
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import shortened
from renaissance.files import write_whole


def print_results(
    heading: str,
    checkpoint: str,
    result: SplitResult,
    changed: Changes,
    controls: Mapping[str, SplitResult],
) -> None:
    """Print the metrics of a split and its controls, with the targets of each objective."""
    rows = []
    for name, value in result.metrics.items():
        targets = result.num_targets.get(name.partition("/")[0])
        compared = [control.metrics.get(name, math.nan) for control in controls.values()]
        figures = [f"{figure:.4f}" if math.isfinite(figure) else "-" for figure in compared]
        rows.append((name, f"{value:.4f}", *figures, "" if targets is None else f"{targets:,}"))
    titles = ("metric", "value", *controls, "targets")
    print_figures(titles, rows, heading=f"{heading}: {result.num_samples:,} samples")
    typer.echo(f"checkpoint: {checkpoint}")
    if result.num_bad_samples:
        typer.echo(f"left out: {result.num_bad_samples} records that cannot be read")
    for path, values in changed.items():
        actual, expected = (shortened(str(values[key])) for key in ("evaluation", "run"))
        typer.echo(f"not as in the run's spec: {path} = {actual} (there: {expected})")


def write_results(
    run: RunFolder,
    split: str,
    checkpoint: str,
    result: SplitResult,
    changed: Changes,
    controls: Mapping[str, SplitResult],
    command: Sequence[str],
) -> list[Path]:
    """Write a split's metrics beside those of other splits."""
    record = {
        "command": shlex.join(["renaissance", *command]),
        "checkpoint": checkpoint,
        "checkpoint_sha256": model_sha256(Path(checkpoint)),
        "metrics": _finite(result.metrics),
        **({"controls": {n: _finite(c.metrics) for n, c in controls.items()}} if controls else {}),
        "num_samples": result.num_samples,
        "num_targets": result.num_targets,
        "num_bad_samples": result.num_bad_samples,
        "changed_settings": changed,
    }
    return [write_record(run, split, record)]


def write_record(run: RunFolder, name: str, record: Mapping[str, object]) -> Path:
    """Write what was measured on a split beside what was measured on others; return the file."""
    run.path.mkdir(parents=True, exist_ok=True)
    results = _earlier_results(run.results) | {name: record}
    write_whole(run.results, json.dumps(results, indent=1) + "\n")
    return run.results


def _earlier_results(path: Path) -> dict[str, object]:
    """Return the results of other splits; a damaged file is moved aside."""
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        results = None
    if isinstance(results, dict):
        return results
    aside = path.with_name("results.damaged.json")
    path.replace(aside)
    typer.echo(f"warning: {path} is damaged: expected a JSON object; it is now {aside.name}")
    return {}


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no NaN and no infinity.
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def write_predictions(path: Path, network: MultiObjective, result: SplitResult) -> list[Path]:
    """Write predictions to the file or, if several objectives predict, to one file for each."""
    predicting = network.overriding("predictions")
    paths = []
    for name, objective in predicting.items():
        its_path = path if len(predicting) == 1 else path.with_stem(f"{path.stem}-{name}")
        rows = result.predictions.get(name, [])
        try:
            with its_path.open("w", encoding="utf-8") as file:
                objective.write_predictions(rows, file)
        # The system names no file if the disk is full.
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(its_path)) from error
        paths.append(its_path)
    return paths
