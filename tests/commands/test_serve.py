"""`renaissance serve`: the command, with a gallery, as a visitor meets it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.asserting import assert_refused
from support.command_line import renaissance
from support.running import TINY, environment, run_here, write_spec
from support.table_files import rows_of, write_csv, write_photos


def _run(folder: Path, objective: str) -> Path:
    start, end = TINY.index("[[objectives]]"), TINY.index("[optimizer]")
    text = TINY[:start] + f'[[objectives]]\ntype = "{objective}"\n\n' + TINY[end:]
    run_here(write_spec(folder, text), folder / "runs", "train.max_steps=1")
    return folder / "runs" / "tiny"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_gallery_is_searched_until_ctrl_c(tmp_path: Path) -> None:
    run = _run(tmp_path, "itc")
    rows = rows_of(5)
    write_photos(tmp_path, rows)
    write_csv(tmp_path / "photos.csv", rows)
    port = _free_port()
    command = [
        *(sys.executable, "-m", "renaissance", "serve", str(run), "--port", str(port)),
        *("--gallery", str(tmp_path / "photos.csv")),
        *("--column", "image=img", "--column", "text=caption"),
    ]
    extra = environment(XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, env=extra, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "gallery: 5 images, 5 texts\n"
            assert f"at http://127.0.0.1:{port} (Ctrl-C ends it)" in process.stdout.readline()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/answer",
                json.dumps({"text": rows[0]["caption"]}).encode(),
                {"content-type": "application/json"},
            )
            deadline = time.monotonic() + 30
            while True:
                try:
                    with urllib.request.urlopen(request) as response:
                        answer = json.loads(response.read())
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert len(answer["nearest_images"]) == 5
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) in (0, 128 + signal.SIGINT)


def test_a_gallery_needs_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = _run(tmp_path, "mlm")
    rows = rows_of(2)
    write_photos(tmp_path, rows)
    write_csv(tmp_path / "photos.csv", rows)
    finished = renaissance(
        *("serve", str(run), "--gallery", str(tmp_path / "photos.csv"), "--column", "image=img")
    )
    assert_refused(finished, "cannot embed: none of its objectives (mlm) has learned to")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert_refused(
        renaissance("serve", str(tmp_path)),
        "uvicorn is not installed; run pip install starlette uvicorn",
        code=1,
    )
