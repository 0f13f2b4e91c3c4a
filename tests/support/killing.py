"""Kill a process and all below it, as when a machine loses power."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 60.0


@contextlib.contextmanager
def not_ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Ignore no such signal, even if the tests run under nohup: children would ignore it too."""
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a process and all below it, and wait until none of them holds a lock."""
    # torchrun and the pool of a study give each process below them a separate session.
    pids = descendants(process.pid)
    # The top one first, so that it sees none of the others end.
    for pid in [process.pid, *pids]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + PATIENCE
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, leaves first."""
    pids: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ..."; the name may hold spaces.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                child = int(status.parent.name)
                pids += [*descendants(child), child]
    return pids


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("Z", "X")
    return False
