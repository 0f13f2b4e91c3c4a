"""Comparing prepared files with the manifests that preparation wrote beside them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from renaissance.errors import DataError
from renaissance.files import read_json

MANIFESTS = "*_manifest.json"
MAX_THREADS = 8
READ_BYTES = 8 << 20


def manifest_entries(paths: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return size, sha256 and manifest of the files that a manifest in their folder lists."""
    paths = list(paths)
    by_folder = {
        folder: dict(entry for path in sorted(folder.glob(MANIFESTS)) for entry in _entries(path))
        for folder in dict.fromkeys(path.parent for path in paths)
    }
    found = {path: by_folder[path.parent].get(path.name) for path in paths}
    return {path: entry for path, entry in found.items() if entry is not None}


def verify_files(paths: Sequence[Path]) -> None:
    """Compare the sha256 of files with their manifests, in several threads, with progress.

    Raises:
        DataError: If no manifest lists a file, or it cannot be read, or has another sha256.
    """
    entries = manifest_entries(paths)
    unlisted = [path for path in paths if path not in entries]
    if unlisted:
        raise DataError(
            f"data.verify: 'sha256', but no manifest in its folder lists {unlisted[0]}; prepare it "
            "with 'renaissance data prepare', or set data.verify = 'size'"
        )
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    progress = Progress(TextColumn("verifying data"), *columns, console=Console(stderr=True))
    with progress, ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        task = progress.add_task("", total=sum(entry["size"] for entry in entries.values()))
        found = pool.map(lambda path: _sha256(path, partial(progress.advance, task)), entries)
        for path, sha256 in zip(entries, found, strict=True):
            if sha256 != entries[path]["sha256"]:
                pool.shutdown(cancel_futures=True)
                raise DataError(
                    f"{path}: its SHA-256 is not the one in {entries[path]['manifest']}: its "
                    "content has changed. Copy or prepare it again"
                )


def _sha256(path: Path, advance: Callable[[float], None]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
                advance(len(part))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Copy it again") from error
    return digest.hexdigest()


def _entries(manifest: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the well-formed entries of a manifest: a damaged one vouches for nothing."""
    tables = read_json(manifest).get("tables")
    for name, entry in tables.items() if isinstance(tables, dict) else ():
        if (
            isinstance(entry, dict)
            and type(entry.get("size")) is int
            and isinstance(entry.get("sha256"), str)
        ):
            yield name, {**entry, "manifest": manifest.name}
