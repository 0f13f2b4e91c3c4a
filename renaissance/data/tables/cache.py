"""Files that are derived from others once, and kept while those do not change."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from renaissance.data.prepare.remote import address_state, is_address
from renaissance.data.tables.files import TableFile
from renaissance.errors import DataError
from renaissance.files import PARTIAL, cache_home, flush_to_disk, locked
from renaissance.launch import launch_of_process
from renaissance.limits import read_limits

# Raised whenever what is written changes its form.
VERSION = 1
# Seconds between two looks at whether another process has finished writing.
POLL = 0.1
# Larger files are announced, since converting them takes a while.
ANNOUNCED_BYTES = 256 << 20


class _BusyError(Exception):
    """Another process is writing the file."""


def default_cache() -> Path:
    """Return the folder for converted tables: in $XDG_CACHE_HOME, by default ~/.cache."""
    return cache_home() / "tables"


def cached(file: TableFile, purpose: str, folder: Path, write: Callable[[Path], None]) -> Path:
    """Return a file derived from a table; it is written first, if that has not been done.

    Several processes may ask at once: one writes, the others wait. A file that was derived from an
    earlier state of the table is replaced.

    Args:
        file: The table.
        purpose: What is derived.
        folder: Folder for derived files.
        write: Writes the file to the path that it gets.

    Raises:
        DataError: If the table cannot be read, or the file cannot be written.
    """
    identity = _digest(file.path, purpose)
    name = f"{file.name}-{identity}"
    target = folder / f"{name}-{_digest(str(VERSION), *_limits(), _state(file))}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not target.exists():
            with contextlib.suppress(_BusyError), locked(folder / f"{name}.lock", _BusyError()):
                # Another process may have written it before this one got the lock.
                if not target.exists():
                    _write(file, target, write)
                    _remove_others(folder, f"{name}-", target)
                return target
            time.sleep(POLL)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot keep what is made from {file.path} ({error}); expected a folder "
            "with room for it. Free space, or name another folder with the option cache"
        ) from error
    return target


def say(text: str) -> None:
    """Print a line on standard error, on one rank."""
    if launch_of_process().rank == 0:
        print(text, file=sys.stderr, flush=True)


def _write(file: TableFile, target: Path, write: Callable[[Path], None]) -> None:
    if not file.is_remote and os.path.getsize(file.path) >= ANNOUNCED_BYTES:
        say(f"table: {file.path} is read once, into {target.parent}")
    partial = target.with_name(target.name + PARTIAL)
    try:
        write(partial)
        flush_to_disk(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    flush_to_disk(target.parent)


def _remove_others(folder: Path, prefix: str, target: Path) -> None:
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path != target:
            path.unlink(missing_ok=True)


def _state(file: TableFile) -> str:
    """Return a string that changes when the table does."""
    try:
        if is_address(file.path):
            return address_state(file.path)
        status = os.stat(file.path)
    except OSError as error:
        raise DataError(
            f"{file.path}: cannot be read ({error}); expected a table. Check the path and your "
            "access to it"
        ) from error
    return f"{status.st_size}/{status.st_mtime_ns}"


def _limits() -> tuple[str, ...]:
    # What was made under higher limits must not hide what is now too large.
    limits = read_limits()
    return tuple(map(str, (limits.record_bytes, limits.nesting, limits.tar_members)))


def _digest(*parts: str) -> str:
    text = "\0".join(parts)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()
