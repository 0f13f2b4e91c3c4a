"""The SLURM script of docs/clusters.md on a real SLURM of one node."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.running import environment, metrics, weights, write_spec
from support.slurm import slurm, wait_until_empty

PAGE = Path(__file__).parents[2] / "docs/clusters.md"
# What the node of the test has not.
HERE = {
    "--nodes=2": "--nodes=1",
    "RANKS_PER_NODE=8": "RANKS_PER_NODE=2",
    "#SBATCH --gpus-per-node=8\n": "",
    "#SBATCH --cpus-per-task=64\n": "",
    "run.toml": "run.toml train.max_steps=150 evaluate.every_steps=1000",
}


@pytest.mark.slow
def test_a_preempted_job_saves_goes_back_to_the_queue_and_finishes(tmp_path: Path) -> None:
    found = re.search(r"```bash\n(#!/bin/bash.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    script = found[1]
    for written, needed in HERE.items():
        assert written in script
        script = script.replace(written, needed)
    (tmp_path / "train.sbatch").write_text(script)
    write_spec(tmp_path)
    program = tmp_path / "bin/torchrun"
    program.parent.mkdir()
    # SLURM is unpacked here, and its libraries are for its own programs alone.
    program.write_text(
        f'#!/bin/bash\nunset LD_LIBRARY_PATH\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    )
    program.chmod(0o755)
    (tmp_path / "slurm").mkdir()
    run = tmp_path / "runs/tiny"
    with slurm(tmp_path / "slurm") as given:
        env = {**environment(), **given, "PATH": f"{program.parent}:{given['PATH']}"}

        def call(*command: str) -> str:
            return subprocess.check_output(command, env=env, text=True, cwd=tmp_path)

        job = call("sbatch", "--parsable", "train.sbatch").strip()
        printed = tmp_path / f"slurm-{job}.out"
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists():
            assert time.monotonic() < deadline, printed.exists() and printed.read_text()
            time.sleep(0.2)
        # As --signal=B:TERM@120 does it.
        call("scancel", "--signal=TERM", "--batch", job)
        deadline = time.monotonic() + 120
        while "PENDING" not in (state := call("scontrol", "show", "job", job)):
            assert time.monotonic() < deadline, state + printed.read_text()
            time.sleep(0.5)
        assert "Restarts=1" in call("scontrol", "show", "job", job)
        # It would wait for two minutes, in which the script of the first start surely ends.
        time.sleep(10)
        call("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_until_empty(env, 200)
    text = printed.read_text()
    (stopped,) = re.findall(r"stopped by SIGTERM at step (\d+)", text)
    assert f"resuming runs/tiny: step {stopped} of 150" in text
    assert "finished at step 150 of 150: runs/tiny" in text
    assert weights(run, 150)
    steps = [line["step"] for line in metrics(run) if line.get("split") != "validate"]
    assert steps == list(range(2, 151, 2))
