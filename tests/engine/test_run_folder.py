"""Where things are in a run folder, and which checkpoints it keeps."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import tomli
from support.running import run_here, write_spec

from renaissance import CheckpointError, SpecError
from renaissance.engine.run_folder import RunFolder, find_checkpoint

PLUGIN = """
from renaissance import hookimpl

@hookimpl
def run_started(run):
    pass
"""


def checkpoint(run: RunFolder, step: int) -> Path:
    """Make what counts as a whole checkpoint."""
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_run_writes_what_the_names_promise(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    plugins = f'run.plugins=["{tmp_path}/mine.py"]'
    run_here(write_spec(tmp_path), tmp_path, "train.max_steps=2", plugins)
    run = RunFolder(tmp_path / "tiny")
    assert tomli.loads(run.spec.read_text())["run"]["name"] == "tiny"
    assert json.loads(run.metrics.read_text().splitlines()[0])["step"] == 2
    assert json.loads(run.plugins.read_text())[0]["path"] == f"{tmp_path}/mine.py"
    assert run.checkpoints() == [run.checkpoint(2)] == [run.last] == [run.best]
    assert (run.checkpoint(2) / "state.json").is_file()


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.checkpoints() == []
    assert run.last is None
    folders = [checkpoint(run, step) for step in (100_000_000, 2, 30)]
    assert folders[0].name == "step-100000000"
    assert folders[1] == tmp_path / "checkpoints" / "step-00000002"
    # One without its manifest is not whole, and these are not names of checkpoints.
    checkpoint(run, 40).joinpath("manifest.json").unlink()
    for name in ("step-50", "step-00000060-copy"):
        checkpoint(run, 50).rename(tmp_path / "checkpoints" / name)
    assert run.checkpoints() == [folders[1], folders[2], folders[0]]
    assert run.last == folders[0]


def test_the_best_is_found_where_it_is_marked(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    folders = {step: checkpoint(run, step) for step in (2, 30, 400)}
    assert run.best is None
    assert run.find(prefer_best=True) == folders[400]
    for step in (30, 2):
        run.mark_best(step)
        assert run.best == folders[step]
        assert run.find(prefer_best=True) == folders[step]
        assert run.find(prefer_best=False) == folders[400]
    # The link still holds in a run folder that was moved.
    moved = RunFolder(tmp_path.rename(tmp_path.with_name("moved")))
    assert moved.best == moved.checkpoint(2)
    # A best checkpoint that is gone is not found.
    (moved.checkpoint(2) / "manifest.json").unlink()
    assert moved.best is None
    assert moved.find(prefer_best=True) == moved.checkpoint(400)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3, 4, 5):
        checkpoint(run, step)
    run.mark_best(2)
    (tmp_path / "checkpoints" / ".step-00000006.partial").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    run.keep(2)
    assert run.checkpoints() == [run.checkpoint(step) for step in (2, 4, 5)]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names - {path.name for path in run.checkpoints()} == {"best", "notes"}
    run.mark_best(5)
    run.keep(1)
    assert run.checkpoints() == [run.checkpoint(5)]


def test_what_the_link_names_is_never_deleted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        checkpoint(run, step)
    run.mark_best(1)
    # Not whole, so it is not found as the best; what is left of it may still be of use.
    manifest = run.checkpoint(1) / "manifest.json"
    manifest.rename(run.checkpoint(1) / "manifest.json.damaged")
    run.keep(1)
    assert run.checkpoint(1).is_dir()
    assert run.checkpoints() == [run.checkpoint(3)]


def test_a_checkpoint_is_found_from_its_own_folder_or_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(run.path, prefer_best=True)
    assert str(caught.value) == (
        f"{run.path}: no checkpoint there; expected a folder with manifest.json, or a run folder "
        "with checkpoints/step-*"
    )
    first, second = checkpoint(run, 1), checkpoint(run, 2)
    run.mark_best(1)
    assert find_checkpoint(run.path, prefer_best=True) == first
    assert find_checkpoint(run.path, prefer_best=False) == second
    assert find_checkpoint(second, prefer_best=True) == second


def test_a_folder_that_cannot_be_made_or_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "runs" / "tiny")
    run.create()
    run.create()
    assert list(run.path.iterdir()) == [run.path / "checkpoints"]
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    refused = {
        f"{tmp_path}/file/tiny": f"{tmp_path}/file is a file",
        f"{tmp_path}/link/tiny": f"{tmp_path}/link is a link that leads nowhere",
        f"{tmp_path}/{'x' * 300}/tiny": "File name too long",
    }
    # Where root may write, but nobody can.
    refused |= {"/proc/x": "No such file or directory"} if sys.platform == "linux" else {}
    for path, reason in refused.items():
        for attempt in (RunFolder.check, RunFolder.create):
            with pytest.raises(SpecError) as caught:
                attempt(RunFolder(Path(path)))
            assert str(caught.value) == (
                f"run.output_dir: cannot create {path}: {reason}; choose a writable folder"
            )

    def fail(*arguments: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(SpecError, match="tiny: Read-only file system; choose a writable folder"):
        run.create()
    assert list(run.path.iterdir()) == [run.path / "checkpoints"]
    assert not list((run.path / "checkpoints").iterdir())


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xfe"])
def test_a_damaged_digest_of_the_tokenizer_is_not_taken_for_one(
    tmp_path: Path, content: bytes
) -> None:
    run = RunFolder(tmp_path)
    run.check_tokenizer("0" * 64)
    run.tokenizer_digest.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.sha256: got '.*', expected the SHA-256 of"
    ):
        run.check_tokenizer("0" * 64)
    run.tokenizer_digest.write_text("0" * 64 + "\n")
    run.check_tokenizer("0" * 64)


def test_links_and_stray_files_are_in_no_save_s_way(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for step in (1, 2, 3):
        checkpoint(run, step)
    # Moved to another disk, or put there by hand.
    moved = run.checkpoint(1).rename(tmp_path / "moved")
    run.checkpoint(1).symlink_to(moved)
    folder = run.path / "checkpoints"
    (folder / ".step-00000002.partial").write_text("")
    (folder / ".step-00000009.partial").symlink_to(moved)
    (folder / "step-00000000").write_text("")
    (folder / "notes.partial").write_text("")
    run.keep(1)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.partial", "step-00000003"]
    assert (moved / "manifest.json").is_file()


def test_a_copied_run_folder_has_a_folder_in_place_of_the_link(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2):
        checkpoint(run, step)
    shutil.copytree(run.checkpoint(1), tmp_path / "checkpoints" / "best")
    (tmp_path / "checkpoints" / ".best.partial-link").mkdir()
    assert run.best == tmp_path / "checkpoints" / "best"
    run.mark_best(2)
    assert run.best == run.checkpoint(2)


@pytest.mark.parametrize("name", ["tokenizer", "encoders"])
@pytest.mark.parametrize("is_link", [False, True])
def test_what_stands_in_the_place_of_a_folder_is_replaced(
    tmp_path: Path, name: str, is_link: bool
) -> None:
    spec = write_spec(tmp_path)
    run_here(spec, tmp_path, "train.max_steps=1", "data.validate=[]")
    folder = tmp_path / "tiny" / name
    kept = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    shutil.rmtree(folder)
    if is_link:
        folder.symlink_to(tmp_path / "gone")
    else:
        folder.write_text("")
    assert run_here(spec, tmp_path, "train.max_steps=2", "data.validate=[]") == 0
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == kept
