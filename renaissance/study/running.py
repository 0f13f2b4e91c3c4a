"""What `study run` does with each cell: train, evaluate, and note what failed."""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs

from renaissance.engine.recorded import changed_settings
from renaissance.engine.resume import FREE
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import SpecError
from renaissance.files import write_whole
from renaissance.plugins.loading import Plugins
from renaissance.spec.read import load_spec
from renaissance.study.cells import Cell
from renaissance.study.sections import ReportSection
from renaissance.study.states import FAILURE, LOG, progress_of
from renaissance.study.study import Study

# Where things are, and who follows a run: a study may be moved with its runs.
ELSEWHERE = (*FREE, "data.root")


@attrs.frozen
class CellJob:
    """One cell as a job of the pool.

    Attributes:
        cell: The cell.
        report: What is measured.
        options: Further arguments of both commands, such as the number of ranks.
    """

    cell: Cell
    report: ReportSection
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the cell."""
        return self.cell.name

    @property
    def after(self) -> str | None:
        """The cell that it starts from."""
        return self.cell.after

    @property
    def log(self) -> Path:
        """The log in the run folder."""
        return self.cell.folder / LOG

    def next_command(self) -> Sequence[str] | None:
        """Return the command to train, or to evaluate once that is done."""
        state = progress_of(self.cell, self.report.split).state
        if state == "finished":
            return None
        return evaluation(self) if self._is_trained() else training(self)

    def ended(self, command: Sequence[str], code: int) -> None:
        """Note a failure in the run folder, or that there is none any more."""
        failure = self.cell.folder / FAILURE
        if code == 0:
            failure.unlink(missing_ok=True)
        else:
            failure.parent.mkdir(parents=True, exist_ok=True)
            write_whole(failure, json.dumps({"command": command[0], "code": code}) + "\n")

    def _is_trained(self) -> bool:
        progress = progress_of(self.cell, self.report.split)
        return progress.total_steps is not None and progress.step >= progress.total_steps


def training(job: CellJob) -> list[str]:
    """Return the arguments of `renaissance` that train a cell."""
    return ["train", *job.cell.arguments, *job.options]


def evaluation(job: CellJob) -> list[str]:
    """Return the arguments of `renaissance` that evaluate a cell."""
    controls = ["--controls"] if job.report.controls else []
    split = ["--split", job.report.split]
    # The study named its plugins itself; the run folder merely repeats them.
    return ["evaluate", str(job.cell.folder), *split, *controls, "--trust-plugins", *job.options]


def stale_runs(study: Study, plugins: Plugins) -> list[str]:
    """Return the finished runs whose spec is not what the study says now."""
    faults = []
    for cell in study.cells():
        if progress_of(cell, study.section.report.split).state != "finished":
            continue
        try:
            changed = changed_settings(RunFolder(cell.folder), load_spec(cell.arguments, plugins))
        except SpecError as error:
            faults += [f"{cell.name}: {fault}" for fault in error.faults]
            continue
        differences = ", ".join(
            f"{path} = {values['run']}, now {values['evaluation']}"
            for path, values in changed.items()
            if not path.startswith(ELSEWHERE)
        )
        if differences:
            faults.append(
                f"{cell.name}: finished with {differences}; delete {cell.folder} to run it anew, "
                "or restore the study"
            )
    return faults
