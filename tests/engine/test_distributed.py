"""Processes that find each other."""

import threading

import pytest
import torch.distributed as dist

from renaissance.engine import distributed
from renaissance.engine.distributed import Ranks
from renaissance.engine.messages import saying_if_it_takes


def test_a_rank_that_waits_for_others_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    said = threading.Event()
    monkeypatch.setattr(distributed, "WAITING", 0.0)
    monkeypatch.setattr("renaissance.engine.messages.say", lambda text: (print(text), said.set()))
    # The other rank never comes.
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: said.wait(30))
    Ranks("cpu")
    assert capsys.readouterr().out == (
        "rank 0 waits for the other 1 of 2 ranks at localhost:1, at most 30 minutes. Start them, "
        "or unset RANK and WORLD_SIZE if an earlier launch has left them in the environment\n"
    )


def test_what_does_not_take_long_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with saying_if_it_takes(600, "slow"):
        (timer,) = (t for t in threading.enumerate() if isinstance(t, threading.Timer))
    timer.join(5)
    assert not timer.is_alive()
    assert capsys.readouterr().out == ""
