"""Which rank a process is, and what is refused if the environment does not say."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import renaissance
from support.killing import not_ignored
from support.running import write_spec

from renaissance import cli, launch
from renaissance.errors import RenaissanceError
from renaissance.launch import (
    cores_of_rank,
    launch_of_process,
    rank_of_process,
    stop_signals,
    usable_cores,
)

NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
ADDRESS = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TORCHRUN = "start the run with torchrun, which sets all of them, or"


def set_only(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0)),
        # Some images and schedulers set these for one process.
        ({"RANK": "0"}, (0, 1, 0)),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, (0, 1, 0)),
        (ADDRESS, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **ADDRESS}, (5, 8, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", **ADDRESS}, (1, 2, 0)),
    ],
)
def test_the_launch_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int, int]
) -> None:
    set_only(monkeypatch, variables)
    assert launch_of_process() == expected
    assert rank_of_process() == expected[0]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RANK": "1"}, f"RANK=1 is set, but WORLD_SIZE is not; {TORCHRUN} `unset RANK` to run"),
        (
            {"RANK": "x"},
            f"RANK=x is set, but RANK must be an integer of at least 0; {TORCHRUN} `unset RANK`",
        ),
        ({"RANK": ""}, "RANK= is set, but RANK must be an integer of at least 0;"),
        ({"RANK": "-1"}, "RANK=-1 is set, but RANK must be an integer of at least 0;"),
        ({"RANK": "²"}, "RANK=² is set, but RANK must be an integer of at least 0;"),
        ({"RANK": "9" * 5000}, f"RANK={'9' * 40} is set, but RANK must be an integer"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3 is set, but WORLD_SIZE is not;"),
        (
            {"WORLD_SIZE": "0"},
            "WORLD_SIZE=0 is set, but WORLD_SIZE must be an integer of at least 1;",
        ),
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 is set, but RANK and MASTER_ADDR and MASTER_PORT are not;",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"},
            f"RANK=1, WORLD_SIZE=2 are set, but MASTER_PORT is not; {TORCHRUN} "
            "`unset RANK WORLD_SIZE` to run one process",
        ),
        (
            {"RANK": "2", "WORLD_SIZE": "2", **ADDRESS},
            "RANK=2, WORLD_SIZE=2 are set, but ranks must be less than WORLD_SIZE=2;",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", **ADDRESS, "MASTER_PORT": "x"},
            "RANK=1, WORLD_SIZE=2 are set, but MASTER_PORT must be an integer of at least 0;",
        ),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "but ranks must be less than WORLD_SIZE=1;"),
    ],
)
def test_variables_that_torchrun_cannot_have_set_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    set_only(monkeypatch, variables)
    with pytest.raises(RenaissanceError) as caught:
        launch_of_process()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    # Messages are printed all the same, by the only process that there is.
    assert rank_of_process() == 0


@pytest.mark.parametrize("value", ["1", "x"])
def test_a_rank_left_in_the_environment_ends_the_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    set_only(monkeypatch, {"RANK": value})
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: pytest.fail("it waits for a peer"))
    finished = renaissance("train", str(write_spec(tmp_path)), f"run.output_dir={tmp_path}")
    assert finished.code == 2
    assert finished.err.startswith(f"error: RANK={value} is set, but ")
    assert len(finished.err.splitlines()) == 1
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 16),
        ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", **ADDRESS}, 4),
        # Two machines.
        ({"RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", **ADDRESS}, 4),
        # A launcher that does not say how many are here, and more ranks than cores.
        ({"RANK": "0", "WORLD_SIZE": "8", **ADDRESS}, 2),
        ({"RANK": "0", "WORLD_SIZE": "40", "LOCAL_WORLD_SIZE": "40", **ADDRESS}, 1),
        # Left behind by an image that starts one process.
        ({"LOCAL_WORLD_SIZE": "8"}, 16),
    ],
)
def test_the_ranks_of_a_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    set_only(monkeypatch, variables)
    monkeypatch.setattr(launch, "usable_cores", lambda: 16)
    assert cores_of_rank() == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("350000 100000", 4), ("5000 100000", 1), ("1600000 100000", 8), (None, 8)],
)
def test_the_cores_of_a_container_are_those_that_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(launch, "CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores() == expected


RANK = """
import signal, time
from renaissance import launch
launch.PATIENCE = 1
if {stuck}:
    # As in a wait for a peer that is gone: the signal is never heeded.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
launch.end_with_launcher()
print("ready", flush=True)
time.sleep(120)
"""
# It starts a rank, says its process id, and waits for it.
AGENT = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(rank.pid, flush=True)
rank.wait()
"""


@pytest.mark.skipif(os.name != "posix", reason="Elsewhere, a process keeps the id of its parent.")
@pytest.mark.parametrize("stuck", [False, True])
def test_ranks_end_when_their_agent_is_killed(stuck: bool) -> None:
    command = [sys.executable, "-c", AGENT, RANK.format(stuck=stuck)]
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    agent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    lines = [agent.stdout.readline().strip() for _ in range(2)]
    rank = int(next(line for line in lines if line != "ready"))
    os.kill(rank, 0)
    agent.kill()
    agent.wait()
    # The rank has the pipe too: it is closed once both are gone.
    with agent.stdout:
        assert agent.stdout.read() == ""


def test_what_nohup_lets_a_process_ignore_does_not_stop_it() -> None:
    with not_ignored(signal.SIGHUP):
        expected = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
        assert expected <= set(stop_signals())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_rank_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "PEER_GRACE_SECONDS", 0)
    text = "[/pytorch/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:30427: "
    cli._report(RuntimeError(f"{text}Connection reset by peer"))
    told = capsys.readouterr().err
    assert told.startswith("error: another rank is gone, and has not said why; if nothing above ")
    assert "gloo" not in told
