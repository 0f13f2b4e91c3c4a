"""The commands of a study's runs, for machines that start them in another way."""

import shlex
from collections.abc import Iterator

from renaissance.study.cells import Cell, stages_of
from renaissance.study.running import CellJob, evaluation, training
from renaissance.study.study import Study


def commands(study: Study) -> Iterator[str]:
    """Yield a line per run that trains and evaluates it, those that others start from first."""
    for cell in study.cells():
        job = CellJob(cell, study.section.report)
        yield " && ".join(
            shlex.join(["renaissance", *arguments])
            for arguments in (training(job), evaluation(job))
        )


def slurm_script(study: Study) -> Iterator[str]:
    """Yield the lines of a shell script that submits one array of tasks per stage.

    A task runs one cell. It is requeued when its node fails or it is preempted, and goes on from
    its last checkpoint. The tasks of a stage wait for those of the stage that it starts from.
    """
    slurm = study.section.slurm
    yield "#!/bin/bash"
    yield f"# {study.section.name}: {len(study.cells())} runs. Pipe this to bash to submit them."
    yield "set -e"
    for index, (name, stage) in enumerate(stages_of(study.section).items()):
        cells = [cell for cell in study.cells() if cell.stage == name]
        options = [f"--{option}={value}" for option, value in slurm.options.items()]
        job_name = ".".join(filter(None, (study.section.name, name)))
        waits = []
        if stage.after is not None:
            before = list(stages_of(study.section)).index(stage.after)
            # A cell that failed makes only those fail that start from it.
            waits = [f'--dependency="afterany:$job_{before}"']
        fixed = [
            "--parsable",
            "--requeue",
            # A run that is asked to stop saves first.
            "--signal=B:TERM@120",
            f"--job-name={job_name}",
            f"--array=0-{len(cells) - 1}",
            *options,
        ]
        arguments = " ".join([*map(shlex.quote, fixed), *waits])
        yield f"job_{index}=$(sbatch {arguments} << 'END'"
        yield from _task(study, cells)
        yield "END"
        yield ")"
        yield f'echo "{job_name}: job $job_{index}, {len(cells)} tasks"'


def _task(study: Study, cells: list[Cell]) -> Iterator[str]:
    """Yield the lines of the script of one task."""
    yield "#!/bin/bash"
    yield f"cells=({' '.join(shlex.quote(cell.name) for cell in cells)})"
    yield from filter(None, [study.section.slurm.before.rstrip("\n")])
    path = shlex.quote(str(study.path))
    yield f'exec renaissance study run {path} --jobs 1 --cell "${{cells[$SLURM_ARRAY_TASK_ID]}}"'
