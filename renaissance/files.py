"""Writing files atomically, locks between processes, and digests to detect changes."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Appended to the name of a file while it is being written.
PARTIAL = ".partial"
# The first words of the text file that stands for a large file in a git repository.
LFS_POINTER = b"version https://git-lfs"
# ORGANIZATION/NAME
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Seconds between two attempts at a lock.
LOCK_POLL = 0.05


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: it holds either all of the new content or the old content.

    Args:
        path: The file; its folder must exist.
        content: The new content; text is encoded as UTF-8.

    Raises:
        OSError: If it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    # The system names no file if the disk is full.
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def why_not_writable(folder: Path) -> str:
    """Return why a folder, which need not exist, cannot be made or written to; empty if it can.

    It is tried: permissions tell nothing of /proc, or of a disk that is read-only or full.
    """
    try:
        parents = folder.absolute().parents
        nearest = next(path for path in (folder, *parents) if path.exists() or path.is_symlink())
        if not nearest.is_dir():
            return f"{nearest} is {'a file' if nearest.exists() else 'a link that leads nowhere'}"
        # Always by this name: what a process that was killed leaves is removed by the next one.
        probe = nearest / f".writable{PARTIAL}"
        # Another process may be trying too.
        with contextlib.suppress(FileExistsError):
            probe.mkdir()
        with contextlib.suppress(FileNotFoundError):
            probe.rmdir()
        return ""
    # The path may be too long to look at.
    except OSError as error:
        return str(error.strerror)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: Exception, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock that one process on this machine can have at a time.

    The system frees the lock of a process that ends, even of one that is killed and whose children
    live on. Where the file system has no locks, nothing is held.

    Args:
        path: The file to lock; removed at the end.
        busy: Raised if another process still holds the lock when the patience has run out.
        patience: Seconds to wait for the lock.
    """
    deadline = time.monotonic() + patience
    while True:
        with path.open("w") as file:
            try:
                import fcntl  # Not on Windows.

                # Not `flock`, whose lock the children of a killed process would go on holding.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(LOCK_POLL)
                continue
            except (ImportError, OSError):
                pass
            # Between opening and locking, the previous holder may have removed the file.
            if os.fstat(file.fileno()).st_nlink:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file; one that is missing or damaged counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def cache_home() -> Path:
    """Return the folder for what can be made again: in $XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "renaissance"


def with_home(path: str) -> str:
    """Return a path with `~` at its start, alone or before a slash, as the home folder."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def is_hub_name(path: str | Path) -> bool:
    """Return whether a path is the name of a model on a hub rather than something that exists."""
    return not Path(with_home(str(path))).exists() and HUB_NAME.fullmatch(str(path)) is not None


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would survive a power failure.

    On Windows, which opens no folders and flushes no file that is open for reading, do nothing.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
