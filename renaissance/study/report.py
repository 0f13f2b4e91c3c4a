"""The report of a study: its table, its pictures, and what they were made of."""

import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from renaissance.engine.manifest import MANIFEST, MODEL, model_sha256
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import CheckpointError
from renaissance.files import read_json, write_whole
from renaissance.study.cells import Cell
from renaissance.study.comparison import Row, unmeasured
from renaissance.study.pictures import draw_bars, draw_curves
from renaissance.study.results import read_figures
from renaissance.study.running import CellJob, evaluation, training
from renaissance.study.states import LOG, failure_of, progress_of
from renaissance.study.study import Study
from renaissance.study.table import notes_of, to_csv, to_latex, to_markdown

STATE = "state.json"


def write_report(study: Study, rows: Sequence[Row], warnings: Sequence[str]) -> list[Path]:
    """Write the report beside the runs.

    Args:
        study: The study.
        rows: The rows of its table.
        warnings: What is wrong with runs that are in the table.

    Returns:
        The files.

    Raises:
        RunError: If matplotlib is missing; everything else is written before.
    """
    folder = study.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": to_markdown(rows),
        "table.csv": to_csv(rows),
        "table.tex": to_latex(rows),
        "report.md": "\n".join(_page(study, rows, warnings)) + "\n",
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    _write_hparams(study, folder / "hparams")
    paths = [*(folder / name for name in texts), folder / "hparams"]
    if draw_curves(study, rows, folder / "curves.png"):
        paths.append(folder / "curves.png")
    if draw_bars(rows, folder / "bars.png"):
        paths.append(folder / "bars.png")
    return paths


def gaps(study: Study, rows: Sequence[Row]) -> list[str]:
    """Return the metrics and the runs that the table lacks, why, and what to do about it."""
    lines = unmeasured(study, rows)
    for cell in study.cells():
        state = progress_of(cell, study.section.report.split).state
        if state == "failed":
            why = f"{failure_of(cell.folder)}; see {cell.folder / LOG}, and"
            lines.append(f"{cell.name}: failed: {why} run the study again")
        elif state != "finished":
            lines.append(f"{cell.name}: {state}; run the study again")
    return lines


def _page(study: Study, rows: Sequence[Row], warnings: Sequence[str]) -> Iterator[str]:
    section = study.section
    num_seeds = len(section.seeds)
    yield f"# {section.name}"
    yield ""
    yield (
        f"{len(study.variants)} variants with {num_seeds} seeds, measured on "
        f"`{section.report.split}`. Differences are from {study.baseline.name}, paired by seed and "
        "by sample; intervals are those of a hierarchical bootstrap, and the last column is Holm's "
        "correction over the whole table."
    )
    yield ""
    yield to_markdown(rows)
    missing = gaps(study, rows)
    if missing:
        yield "Not in the table:\n"
        yield from (f"- {line}" for line in missing)
        yield ""
    notes = [*warnings, *notes_of(rows)]
    if notes:
        yield "Read with care:\n"
        yield from (f"- {note}" for note in notes)
        yield ""
    yield "![Training curves](curves.png)\n"
    yield "![Means and differences](bars.png)\n"
    yield "## Commands\n"
    for cell in study.cells():
        job = CellJob(cell, section.report)
        for arguments in (training(job), evaluation(job)):
            yield f"    {shlex.join(['renaissance', *arguments])}"
    yield ""
    yield "## Checkpoints\n"
    yield "| run | checkpoint | sha256 of the parameters |\n|-|-|-|"
    for cell in study.cells():
        checkpoint = _checkpoint(cell)
        if checkpoint is not None:
            digest = _digest(checkpoint)
            yield f"| {cell.name} | {checkpoint.name} | `{digest}` |"
    yield ""
    yield "## Environment\n"
    yield from (f"- {line}" for line in _environment(study))


def _checkpoint(cell: Cell) -> Path | None:
    run = RunFolder(cell.folder)
    return run.best or run.last


def _digest(checkpoint: Path) -> str:
    entry = read_json(checkpoint / MANIFEST).get(MODEL)
    if isinstance(entry, dict):
        return str(entry.get("sha256"))
    try:
        return model_sha256(checkpoint)
    except CheckpointError:
        return "unknown"


def _environment(study: Study) -> Iterator[str]:
    """Yield what the runs were trained with, as their checkpoints say, and this machine."""
    versions: dict[str, list[str]] = {}
    for cell in study.cells():
        checkpoint = _checkpoint(cell)
        if checkpoint is not None:
            record = read_json(checkpoint / STATE).get("versions", {})
            text = ", ".join(f"{name} {version}" for name, version in record.items())
            versions.setdefault(text, []).append(cell.name)
    for text, names in versions.items():
        yield text if len(versions) == 1 else f"{text}: {', '.join(names)}"
    yield f"Python {sys.version.split()[0]}, {platform.platform()}"


def _write_hparams(study: Study, folder: Path) -> None:
    """Write what TensorBoard's tab HPARAMS shows: a row per run that was measured."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    for cell in study.cells():
        figures = read_figures(cell.folder, study.section.report.split)
        if figures:
            values = {**cell.variant.values, "seed": cell.seed}
            with SummaryWriter(str(folder / cell.name)) as writer:
                writer.add_hparams(values, dict(figures), run_name=".")
