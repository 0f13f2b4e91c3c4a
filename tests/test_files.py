"""Files that are written whole or not at all."""

import hashlib
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from renaissance.files import locked, sha256_of, why_not_writable, write_whole


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "naïve\n")
    write_whole(tmp_path / "bytes", b"\xff\x00")
    assert (tmp_path / "text").read_bytes() == b"na\xc3\xafve\n"
    assert (tmp_path / "bytes").read_bytes() == b"\xff\x00"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "text"]


def test_the_content_is_on_disk_before_it_replaces_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    flushed = []

    def note(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        flushed.append((name, path.read_text()))

    monkeypatch.setattr(os, "fsync", note)
    write_whole(path, "new")
    assert flushed == [("file.partial", "old"), (tmp_path.name, "new")]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def no_room(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    owner = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, no_room)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def hold(path: Path, held: Event) -> None:
    """Take the lock, and start a child that lives on."""
    with locked(path, RuntimeError("busy")):
        if os.fork():
            held.set()
        time.sleep(30)


def test_a_lock_is_free_once_its_process_is_killed_though_a_child_lives_on(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(30)
    with pytest.raises(RuntimeError, match="busy"), locked(tmp_path / "lock", RuntimeError("busy")):
        pass
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with locked(tmp_path / "lock", RuntimeError("busy")):
        assert (tmp_path / "lock").exists()


def hold_briefly(path: Path, held: Event) -> None:
    """Take the lock, and free it a moment after the other process has been told."""
    with locked(path, RuntimeError("busy")):
        held.set()
        time.sleep(0.5)


def test_a_lock_is_awaited_as_long_as_the_patience_lasts(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    process = fork.Process(target=hold_briefly, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(30)
    with locked(tmp_path / "lock", RuntimeError("busy"), patience=60.0):
        assert (tmp_path / "lock").exists()
    process.join()
    assert process.exitcode == 0


def test_processes_that_try_a_folder_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def too_late(self: Path, *arguments: Any, **options: Any) -> None:
        # The other process makes the folder just before, and removes it just after.
        made(self)
        try:
            made(self, *arguments, **options)
        finally:
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", too_late)
    assert why_not_writable(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
