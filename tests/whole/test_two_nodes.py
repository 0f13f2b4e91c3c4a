"""Two nodes with two ranks each: what happens when one of them is in trouble."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.running import write_spec
from support.two_nodes import Cable, Launched, run, two_nodes

SETTINGS = ("train.step_timeout=10", "train.max_steps=40", "evaluate.every_steps=1000")
SETTINGS += ("checkpoint.every_steps=5", "checkpoint.keep_last=1", "run.output_dir=runs")
CHECKPOINT = "runs/tiny/checkpoints/step-00000040"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    with two_nodes() as cable:
        yield cable


@pytest.fixture(scope="module")
def straight(cable: Cable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the last checkpoint of a run without trouble."""
    folder = tmp_path_factory.mktemp("straight")
    launched = launch(cable, folder, shared=True)
    launched.seconds_to_end(200)
    assert [process.returncode for process in launched.processes] == [0, 0], launched.text()
    return folder / "node-0" / CHECKPOINT


def launch(cable: Cable, folder: Path, shared: bool) -> Launched:
    spec = write_spec(folder)
    folders = [folder / f"node-{0 if shared else node}" for node in range(2)]
    for path in folders:
        path.mkdir(exist_ok=True)
    return Launched.of(cable, folders, [str(spec), *SETTINGS])


def cut(cable: Cable, launched: Launched, folder: Path) -> None:
    cable.switch("down")


def kill(cable: Cable, launched: Launched, folder: Path) -> None:
    os.kill(launched.pid_of(3), signal.SIGKILL)


def stop(cable: Cable, launched: Launched, folder: Path) -> None:
    os.kill(launched.pid_of(3), signal.SIGSTOP)


def fill(cable: Cable, launched: Launched, folder: Path) -> None:
    # As long as anything fits, however small.
    with (folder / "node-0/filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# A closed connection is noticed first, or the timeout.
GONE = "another rank is gone, and has not said why|another rank or the network may be gone"
TROUBLES: dict[str, tuple[Callable[[Cable, Launched, Path], None], bool, list[str]]] = {
    "cut": (
        cut,
        False,
        [
            "error: rank 0 (node-a): step ",
            "error: rank 2 (node-b): step ",
            " has not ended in 10 s; another rank or the network may be gone",
            "It waits here:\n",
        ],
    ),
    "kill": (kill, True, ["Signal 9 (SIGKILL)", GONE]),
    "stop": (stop, True, ["error: rank 2 (node-b): step ", " has not ended in 10 s; another "]),
    "fill": (fill, False, ["cannot write the checkpoint: ", "No space left on device"]),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_all_processes_end_and_the_same_command_goes_on(
    cable: Cable, straight: Path, tmp_path: Path, trouble: str
) -> None:
    begin, shared, texts = TROUBLES[trouble]
    (tmp_path / "node-0").mkdir()
    if trouble == "fill":
        run("mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path / "node-0"))
    try:
        launched = launch(cable, tmp_path, shared)
        checkpoints = tmp_path / "node-0/runs/tiny/checkpoints"
        deadline = time.monotonic() + 120
        while not list(checkpoints.glob("step-*")):
            assert time.monotonic() < deadline, launched.text()
            time.sleep(0.05)
        begin(cable, launched, tmp_path)
        seconds = launched.seconds_to_end(90)
        print(f"{trouble}: all processes were gone after {seconds:.0f} s")
        assert all(process.returncode for process in launched.processes)
        for text in texts:
            assert any(way in launched.text() for way in text.split("|")), text
        cable.switch("up")
        (tmp_path / "node-0/filling").unlink(missing_ok=True)
        launched = launch(cable, tmp_path, shared)
        launched.seconds_to_end(200)
        assert "resuming runs/tiny: step " in launched.text()
        assert ("runs/tiny is not shared with node-b: " in launched.text()) == (not shared)
        for name in ("model.safetensors", "optimizer.safetensors"):
            end = (tmp_path / "node-0" / CHECKPOINT / name).read_bytes()
            assert end == (straight / name).read_bytes()
    finally:
        cable.switch("up")
        if trouble == "fill":
            run("umount", "--lazy", str(tmp_path / "node-0"))
