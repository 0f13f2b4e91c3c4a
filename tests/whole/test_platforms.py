"""Other systems than Linux, imitated by taking away what they lack."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.arrow_files import rows, spec_with_files, write_arrow
from support.running import environment, metrics

from renaissance import SpecError
from renaissance.engine.distributed import Ranks
from renaissance.engine.memory import peak_memory
from renaissance.files import write_whole

# A file, since workers that are not forked import the main module again.
WITHOUT = """
import multiprocessing, sys

# It reads the memory of other systems in another way.
import psutil

for name in ("fcntl", "resource"):
    sys.modules[name] = None

import torch.distributed as dist

dist.is_available = lambda: False
for name in ("is_initialized", "init_process_group", "destroy_process_group", "get_world_size"):
    delattr(dist, name)

from renaissance.cli import main
from renaissance.data import loader

loader.PROCESSES = multiprocessing.get_context("spawn")

if __name__ == "__main__":
    main()
"""


def test_check_training_and_evaluation_without_what_linux_alone_has(tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT)
    write_arrow(tmp_path / "train.arrow", rows(16))
    spec = spec_with_files(tmp_path)
    settings = [
        "train.max_steps=2",
        "data.num_workers=1",
        'data.validate=[{type = "image-text", files = "train.arrow"}]',
        'objectives=[{type = "itm"}, {type = "itc"}]',
    ]
    for command in (
        ["check", str(spec), *settings],
        [str(spec), *settings],
        ["evaluate", "runs/tiny"],
    ):
        finished = subprocess.run(
            [sys.executable, "without.py", *command],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout
    assert metrics(tmp_path / "runs" / "tiny")[-1]["step"] == 2


def test_two_ranks_need_a_torch_with_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.get(name, "1"))
    monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    with pytest.raises(SpecError, match=r"built without torch.distributed, which 2 ranks need"):
        Ranks("cpu")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(SpecError, match="'mps' is for one process, but there are 2"):
        Ranks("mps")


def test_apple_gpus_are_taken_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert Ranks("mps").device == torch.device("mps")
    assert Ranks("auto").device.type != "mps"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SpecError, match="'mps', but torch finds no Apple GPU; use 'auto'"):
        Ranks("mps")


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_in_the_unit_of_the_system(
    platform: str, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(ru_maxrss=3 * 2**30 // unit)
    monkeypatch.setattr("resource.getrusage", lambda who: usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory(torch.device("cpu")) == 3


def test_peak_memory_is_0_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(torch.device("cpu")) == 0


def test_nothing_is_flushed_on_windows_which_opens_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("os.fsync", refuse)
    monkeypatch.setattr("os.open", refuse)
    write_whole(tmp_path / "file", "content")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "content"
