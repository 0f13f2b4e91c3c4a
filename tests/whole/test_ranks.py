"""`renaissance train --ranks N`: how many ranks, and what is left on the terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import environment, metrics, write_spec

from renaissance import SpecError, elastic
from renaissance.elastic import number_of_ranks, start_ranks


@pytest.mark.parametrize(
    ("ranks", "device", "num_gpus", "expected"),
    [
        ("auto", "auto", 0, 1),
        ("auto", "auto", 1, 1),
        ("auto", "auto", 8, 8),
        ("auto", "cuda", 2, 2),
        ("auto", "cpu", 8, 1),
        ("3", "auto", 8, 3),
    ],
)
def test_auto_is_one_rank_per_gpu(
    monkeypatch: pytest.MonkeyPatch, ranks: str, device: str, num_gpus: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert number_of_ranks(ranks, device) == expected


@pytest.mark.parametrize(("num_gpus", "found"), [(1, "1 GPU"), (2, "2 GPUs")])
def test_ranks_without_a_gpu_of_their_own_are_refused_before_any_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_gpus: int, found: str
) -> None:
    monkeypatch.setattr(elastic, "start_ranks", lambda *_: pytest.fail("ranks were started"))
    monkeypatch.setattr(elastic, "num_gpus", lambda: num_gpus)
    command = ["train", "--ranks", "4", str(write_spec(tmp_path)), "train.device=auto"]
    assert_refused(
        renaissance(*command),
        f"--ranks: got 4, but this machine has {found}, and each rank needs its own; use --ranks "
        "auto, or train.device=cpu",
    )
    assert number_of_ranks("4", "cpu") == 4


@pytest.mark.parametrize(
    ("num_gpus", "settings", "expected"),
    [
        (0, [], 1),
        (1, [], 1),
        (4, [], 4),
        (3, [], 2),
        (7, ["train.global_batch_size=42"], 7),
        (8, ["train.micro_batch_size=4"], 2),
        (5, ["train.global_batch_size=7"], 1),
    ],
)
def test_auto_starts_as_many_ranks_as_can_share_the_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    settings: list[str],
    expected: int,
) -> None:
    """The tiny spec has a global batch of 8."""
    started: list[int] = []

    def start(arguments: list[str], num_ranks: int) -> int:
        started.append(num_ranks)
        return 0

    monkeypatch.setattr(elastic, "start_ranks", start)
    monkeypatch.setattr(elastic, "num_gpus", lambda: num_gpus)
    spec = str(write_spec(tmp_path))
    finished = renaissance("train", "--ranks", "auto", spec, "train.device=auto", *settings)
    assert started == [expected]
    left_out = f"{expected} of {num_gpus} GPUs are used: more cannot share train.global_batch_size"
    assert (left_out in finished.out) == (expected < num_gpus)


@pytest.mark.parametrize("ranks", ["0", "-1", "two", "", "1.5", "²"])
def test_what_is_not_a_number_of_ranks(ranks: str) -> None:
    with pytest.raises(SpecError, match=r"--ranks: got '.*', expected a number of processes, or"):
        number_of_ranks(ranks, "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.max_step=3"], "train.max_step: unknown key"),
        (["train.global_batch_size=7"], "7"),
    ],
)
def test_the_spec_is_checked_before_any_rank_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], message: str
) -> None:
    monkeypatch.setattr(elastic, "start_ranks", lambda *_: pytest.fail("ranks were started"))
    assert_refused(
        renaissance("train", "--ranks", "2", str(write_spec(tmp_path)), *settings), message
    )


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ranks_get_the_arguments_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    started: list[tuple[list[str], int]] = []

    def start(arguments: list[str], num_ranks: int) -> int:
        started.append((arguments, num_ranks))
        return 3

    monkeypatch.setattr(elastic, "start_ranks", start)
    spec = str(write_spec(tmp_path))
    finished = renaissance(command, spec, "train.max_steps=3", "--ranks", "2", "--debug")
    assert finished.code == 3
    more = [] if command == "train" else ["--split", "validate", "--checkpoint", "best"]
    assert started == [([command, spec, "train.max_steps=3", *more, "--debug"], 2)]


def test_ranks_start_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match="torchrun has started several processes already"):
        start_ranks(["train"], 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_its_message_is_the_last(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "renaissance", "train", "--ranks", "2"]
    command += [str(write_spec(tmp_path)), f"run.output_dir={tmp_path}"]
    command += ["train.max_steps=100000", "evaluate.every_steps=100000"]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "tiny/metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == ""
    last = out.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name} at step ")
    assert last.endswith("the same command resumes from here")
    assert list((tmp_path / "tiny/checkpoints").glob("step-*"))
    assert metrics(tmp_path / "tiny")


def test_a_rank_that_was_killed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    failure = elastic.ProcessFailure(local_rank=1, pid=7, exitcode=-9, error_file="")
    assert elastic._exit_code(1, failure) == 137
    assert capsys.readouterr().err.startswith("error: rank 1 was ended by SIGKILL, and could not")


def test_a_rank_that_was_killed_is_named_with_the_memory_that_it_had(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = "data = bytearray(b'x' * 300 * 2**20); print(len(data), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    memory = elastic.MemoryLastSeen()
    memory.look()
    child.kill()
    child.communicate()
    memory.look()
    failure = elastic.ProcessFailure(local_rank=1, pid=child.pid, exitcode=-9, error_file="")
    assert elastic._exit_code(1, failure, memory.of(child.pid)) == 137
    assert " could not say why (it last had 0.3 GiB in memory); if it" in capsys.readouterr().err
