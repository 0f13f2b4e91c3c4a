"""Finding the files of a download."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from renaissance.errors import DataError


def find_file(path: str, candidates: Sequence[str], remedy: str) -> Path:
    """Return the first of several files that exists.

    Args:
        path: Folder of the download, or the file itself.
        candidates: Paths relative to the folder.
        remedy: What to do if none exists.

    Raises:
        DataError: If none exists.
    """
    source = Path(path)
    if source.is_file():
        return source
    for candidate in candidates:
        if (source / candidate).is_file():
            return source / candidate
    raise DataError(
        f"{source}: no {candidates[0]}; expected {' or '.join(candidates)} in that folder. {remedy}"
    )


def first_existing(candidates: Iterable[Path]) -> Path:
    """Return the first path that exists; if none does, the first."""
    paths = list(candidates)
    return next((path for path in paths if path.exists()), paths[0])
