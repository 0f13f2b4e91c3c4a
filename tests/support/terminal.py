"""What a terminal of 80 columns shows."""

import os
import pty
import re
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress

import pytest


def on_a_terminal(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is printed to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    chunks: list[bytes] = []
    # A terminal holds only a few KiB that nobody has read.
    reader = threading.Thread(target=_read_to_the_end, args=(ours, chunks), daemon=True)
    reader.start()
    with os.fdopen(theirs, "w") as stream, redirect_stdout(stream):
        act()
    reader.join(timeout=10)
    os.close(ours)
    return b"".join(chunks).decode()


def _read_to_the_end(descriptor: int, chunks: list[bytes]) -> None:
    # A terminal whose other end is closed is an error on Linux, no data elsewhere.
    with suppress(OSError):
        while chunk := os.read(descriptor, 4096):
            chunks.append(chunk)


def visible_lines(printed: str) -> list[str]:
    """Return the lines that a terminal would have shown at some time, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
