"""Ranks that were started with different things say so before the first step."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment, write_spec


@pytest.mark.parametrize(
    ("differs", "lines"),
    [
        (
            "optimizer.learning_rate=1e-$((RANK + 3))",
            ["optimizer.learning_rate: 0.0001, on rank 0 0.001"],
        ),
        (
            "data.train.0.num_samples=$((24 - 8 * RANK)) train.max_epochs=2",
            [
                "data.train.0.num_samples: 16, on rank 0 24",
                "train.max_steps: 4, on rank 0 6",
                "training samples: [16], on rank 0 [24]",
            ],
        ),
    ],
)
def test_ranks_that_differ_are_refused_alike(
    tmp_path: Path, differs: str, lines: list[str]
) -> None:
    spec = write_spec(tmp_path)
    run = f"{sys.executable} -m renaissance {spec} run.output_dir={tmp_path}/runs {differs}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", "--no-python", "sh", "-c", run],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode != 0
    # The launcher's report repeats it.
    printed, *_ = finished.stderr.partition("\n=====")
    assert printed.count("differs from rank 0") == 1
    assert "start every node with the same command, files and versions" in finished.stderr
    assert "exitcode  : 2" in finished.stderr
    for line in lines:
        assert line in finished.stderr
    assert not list((tmp_path / "runs").rglob("metrics.jsonl"))
