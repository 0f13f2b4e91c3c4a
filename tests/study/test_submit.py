"""The script for SLURM, run with an sbatch that only notes what it was given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment, write_spec
from support.slurm import slurm, wait_until_empty

from renaissance.study import Study
from renaissance.study.states import progress_of
from renaissance.study.submit import commands, slurm_script

TEXT = """
[study]
name = "queue"
seeds = [0, 1]
stages = ["pretrain", "tune"]
[study.stage.pretrain]
axes = []
[study.axes]
rate = { low = [], high = "optimizer.learning_rate=0.5" }
[study.slurm]
options = { time = "1:00:00", gres = "gpu:1" }
before = "module load cuda"
"""
SBATCH = """#!/bin/bash
echo "$@" >> calls
cat > script-$(wc -l < calls)
echo $((40 + $(wc -l < calls)))
"""


def read(folder: Path) -> Study:
    (folder / "my study.toml").write_text(TEXT)
    return Study.read(folder / "my study.toml")


def test_one_array_per_stage_and_the_second_waits_for_the_first(tmp_path: Path) -> None:
    study = read(tmp_path)
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    done = subprocess.run(
        ["bash"],
        input="\n".join(slurm_script(study)),
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "queue.pretrain: job 41, 2 tasks",
        "queue.tune: job 42, 4 tasks",
    ]
    fixed = "--parsable --requeue --signal=B:TERM@120"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{fixed} --job-name=queue.pretrain --array=0-1 --time=1:00:00 --gres=gpu:1",
        f"{fixed} --job-name=queue.tune --array=0-3 --time=1:00:00 --gres=gpu:1 "
        "--dependency=afterany:41",
    ]
    assert (tmp_path / "script-2").read_text().splitlines() == [
        "#!/bin/bash",
        "cells=(tune.low.seed-0 tune.low.seed-1 tune.high.seed-0 tune.high.seed-1)",
        "module load cuda",
        f"exec renaissance study run '{tmp_path}/my study.toml' --jobs 1 "
        '--cell "${cells[$SLURM_ARRAY_TASK_ID]}"',
    ]


def test_each_line_trains_and_evaluates_one_run(tmp_path: Path) -> None:
    lines = list(commands(read(tmp_path)))
    assert len(lines) == 6
    assert lines[-1] == (
        "renaissance train optimizer.learning_rate=0.5 'run.name=\"tune.high.seed-1\"' "
        "'run.output_dir=\"runs/queue\"' run.seed=1 "
        "'model.init_from=\"runs/queue/pretrain.all.seed-1\"' && "
        "renaissance evaluate runs/queue/tune.high.seed-1 --split validate --trust-plugins"
    )


REAL = """
[study]
name = "real"
base = ["run.toml", "train.max_steps=2"]
output_dir = "{folder}/runs"
stages = ["first", "second"]
[study.stage.first]
axes = []
[study.axes]
rate = {{ low = [], high = "optimizer.learning_rate=0.01" }}
[study.slurm]
options = {{ chdir = "{folder}" }}
before = "unset LD_LIBRARY_PATH"
"""


@pytest.mark.slow
def test_a_real_slurm_runs_the_stages_in_order(tmp_path: Path) -> None:
    write_spec(tmp_path)
    (tmp_path / "study.toml").write_text(REAL.format(folder=tmp_path))
    command = tmp_path / "bin" / "renaissance"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -m renaissance "$@"\n')
    command.chmod(0o755)
    study = Study.read(tmp_path / "study.toml")
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as given:
        path = f"{command.parent}:{given['PATH']}"
        env = {**environment(), **given, "PATH": path, "OMP_NUM_THREADS": "1"}
        script = "\n".join(slurm_script(study))
        subprocess.run(["bash"], input=script, text=True, env=env, check=True)
        wait_until_empty(env, 300)
    states = {cell.name: progress_of(cell, "validate").state for cell in study.cells()}
    assert states == {
        "first.all.seed-0": "finished",
        "second.low.seed-0": "finished",
        "second.high.seed-0": "finished",
    }
