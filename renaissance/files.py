"""Writing files atomically, and digests to detect changes."""

import hashlib
import os
from pathlib import Path

# Appended to the name of a file while it is being written.
PARTIAL = ".partial"


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
    finally:
        partial.unlink(missing_ok=True)
    flush_to_disk(path.parent)


def with_home(path: str) -> str:
    """Return a path with `~` at its start, alone or before a slash, as the home folder."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
