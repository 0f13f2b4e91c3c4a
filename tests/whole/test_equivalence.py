"""The same run, however its batch is divided, its data read, or its life interrupted."""

import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.asserting import assert_same_figures, assert_same_weights
from support.killing import kill_tree
from support.running import TINY, metrics, run_here, torchrun, torchrun_command, weights, write_spec
from support.running import environment as environment_of

from renaissance.data.loader import MicroBatchLoader
from renaissance.data.order import SampleStream, TrainingOrder
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.read import load_spec

KEEP_ALL = ["checkpoint.every_steps=4", "checkpoint.keep_last=100"]


def test_batch_may_be_divided_in_any_way(tmp_path: Path) -> None:
    # SGD: its update is linear in the gradient. Adam's first steps divide by the gradient's own
    # size and would blow rounding up where a gradient is nearly zero.
    spec = write_spec(tmp_path)
    common = ["optimizer.type=sgd", "optimizer.learning_rate=0.05"]
    assert run_here(spec, tmp_path / "whole", *common) == 0
    assert run_here(spec, tmp_path / "accumulated", *common, "train.micro_batch_size=2") == 0
    for name, more in {"ranks": [], "both": ["train.micro_batch_size=2"]}.items():
        result = torchrun(2, str(spec), f"run.output_dir={tmp_path / name}", *common, *more)
        assert result.returncode == 0, result.stderr
    for name in ("accumulated", "ranks", "both"):
        assert_same_figures(tmp_path / "whole" / "tiny", tmp_path / name / "tiny", 1e-5)
        assert_same_weights(tmp_path / "whole" / "tiny", tmp_path / name / "tiny", 10, 1e-5)


def test_global_candidates_do_not_depend_on_the_division(tmp_path: Path) -> None:
    itc = '[[objectives]]\ntype = "itc"\nprojection_size = 8\ncandidates = "global"\n\n'
    text = TINY.replace("[optimizer]", f"{itc}[optimizer]")
    spec = write_spec(tmp_path, text.replace("global_batch_size = 8", "global_batch_size = 64"))
    settings = ["optimizer.type=sgd", "optimizer.learning_rate=0.05", "train.max_steps=3"]
    settings += ["evaluate.every_steps=3", "train.log_every=1"]
    assert run_here(spec, tmp_path / "whole", *settings) == 0
    settings.append("train.micro_batch_size=8")
    assert run_here(spec, tmp_path / "accumulated", *settings) == 0
    result = torchrun(2, str(spec), f"run.output_dir={tmp_path / 'both'}", *settings)
    assert result.returncode == 0, result.stderr
    for name in ("accumulated", "both"):
        assert_same_figures(tmp_path / "whole" / "tiny", tmp_path / name / "tiny", 1e-5)
        assert_same_weights(tmp_path / "whole" / "tiny", tmp_path / name / "tiny", 3, 1e-5)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_number_of_workers_changes_nothing(tmp_path: Path, num_workers: int) -> None:
    plugins = load_plugins()
    settings = ["data.transform.randaugment=true", "objectives.1.negatives=batch"]
    spec = load_spec([str(write_spec(tmp_path)), *settings], plugins)
    setup = build(spec, world_size=1, load_weights=True)

    def batches(workers: int) -> list[torch.Tensor]:
        order = TrainingOrder(setup.plan, 0, setup.stream(), start=0, stop=80)
        loader = MicroBatchLoader(setup.train, order, workers, torch.device("cpu"))
        tensors = []
        for batch in loader:
            itm = batch.objectives["itm"]
            tensors += [batch.indices, batch.input_ids, batch.pixel_values, itm.tensors["labels"]]
            tensors += [itm.pairs.image_rows, batch.objectives["mlm"].tensors["positions"]]
        return tensors

    here, there = batches(0), batches(num_workers)
    assert len(here) == len(there) == 60
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def start_and_kill(command: list[str], wait_for: Path) -> None:
    """Start a run and SIGKILL all of it as soon as a checkpoint stands."""
    process = subprocess.Popen(
        command,
        env=environment_of(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (wait_for / "manifest.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_tree(process)


def test_killed_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    # 50 samples, batches of 8: step 4 is in the middle of the first epoch; and dropout is on.
    settings = ["model.fusion.dropout=0.1", "train.max_steps=24", *KEEP_ALL]
    spec = write_spec(tmp_path)
    for name in ("whole", "killed"):
        command = torchrun_command(2, [str(spec), f"run.output_dir={tmp_path / name}", *settings])
        if name == "killed":
            start_and_kill(command, tmp_path / name / "tiny/checkpoints/step-00000004")
            assert not (tmp_path / name / "tiny/checkpoints/step-00000024").exists()
        result = subprocess.run(
            command, env=environment_of(), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert "resuming" in result.stdout
    assert metrics(tmp_path / "whole/tiny") == metrics(tmp_path / "killed/tiny")
    whole, killed = (weights(tmp_path / name / "tiny", 24) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_resuming_on_other_ranks_sees_exactly_the_remaining_samples() -> None:
    num_samples, seed, total = 50, 3, 15
    two, one = (BatchPlan(8, 8 // n, 1, n) for n in (2, 1))
    stream = SampleStream([num_samples], None, seed)

    def seen(plan: BatchPlan, start: int, stop: int) -> list[tuple[int, int]]:
        return [
            sample
            for rank in range(plan.world_size)
            for request in TrainingOrder(plan, rank, stream, start * 8, stop * 8)
            for sample in request
        ]

    before, after = seen(two, 0, 4), seen(one, 4, total)
    whole = seen(one, 0, total)
    assert sorted(before + after) == sorted(whole)
    # Each epoch holds every sample once, wherever the batches end.
    for epoch in (0, 1):
        assert sorted(i for e, i in whole if e == epoch) == list(range(num_samples))


def test_resumed_run_on_fewer_ranks_continues_the_curve(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    settings = ["optimizer.type=sgd", "optimizer.learning_rate=0.05", "train.max_steps=24"]
    settings += KEEP_ALL
    assert run_here(spec, tmp_path / "one", *settings) == 0
    command = [str(spec), f"run.output_dir={tmp_path / 'two'}", *settings]
    start_and_kill(torchrun_command(2, command), tmp_path / "two/tiny/checkpoints/step-00000004")
    assert not (tmp_path / "two/tiny/checkpoints/step-00000024").exists()
    assert run_here(spec, tmp_path / "two", *settings) == 0
    assert_same_figures(tmp_path / "one/tiny", tmp_path / "two/tiny", 1e-4)
    assert_same_weights(tmp_path / "one/tiny", tmp_path / "two/tiny", 24, 1e-4)
