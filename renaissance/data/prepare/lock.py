"""One preparation of a name at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from renaissance.errors import DataError


@contextlib.contextmanager
def locked(output: Path, name: str) -> Iterator[None]:
    """Keep other processes from preparing the same name in the same folder.

    The system frees the lock of a process that ends, even of one that is killed.

    Raises:
        DataError: If another process holds the lock.
    """
    path = output / f"{name}.lock"
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{output}: another process is preparing {name} in this folder; expected one "
                    "at a time. Wait until it has ended, or choose another output"
                ) from None
            except OSError:
                pass  # Some file systems of clusters have no locks.
            # Between opening and locking, the previous holder may have removed the file.
            if os.fstat(file.fileno()).st_nlink:
                try:
                    yield
                finally:
                    path.unlink()
                return
