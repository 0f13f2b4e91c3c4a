"""Which files a table consists of: a path, a pattern, a folder, an address, or a list of these."""

import difflib
import glob
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import attrs

from renaissance.data.prepare.remote import is_address, list_addresses
from renaissance.errors import DataError

Format: TypeAlias = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "tar"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".tar": "tar",
}
# What `save_to_disk` of Hugging Face's datasets writes: of one split, and of several.
STATE, SPLITS = "state.json", "dataset_dict.json"


@attrs.frozen
class TableFile:
    """One file of a table.

    Attributes:
        path: Its path, or an address such as s3://bucket/key.
        format: Its format.
    """

    path: str
    format: Format

    @property
    def name(self) -> str:
        """The file name, for messages."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder, or its address."""
        return self.path.rpartition("/")[0] or "/"

    @property
    def is_remote(self) -> bool:
        """Whether it is at an address."""
        return is_address(self.path)


def find_tables(root: Path, files: str | Sequence[str]) -> list[TableFile]:
    """Return the files that paths, patterns, folders and addresses name.

    Args:
        root: Folder that relative paths start from.
        files: One or several of them. The files of a pattern or folder are in the order of their
            names.

    Raises:
        DataError: If a file does not exist, or its format is not known.
    """
    patterns = (files,) if isinstance(files, str) else tuple(files)
    if not patterns:
        raise DataError("table: files is an empty list; expected at least one path or pattern")
    return [table for pattern in patterns for table in _matching(root, pattern)]


def _matching(root: Path, pattern: str) -> list[TableFile]:
    if is_address(pattern):
        return _at_address(pattern)
    path = root.absolute() / pattern
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or not glob.has_magic(pattern):
        return [_local(path)]
    matches = [root.absolute() / name for name in glob.glob(pattern, root_dir=root, recursive=True)]
    if not matches:
        raise DataError(
            f"table: no file matches {pattern!r} in {root.absolute()}; expected "
            f"{', '.join(FORMATS)}. Patterns are relative to data.root"
        )
    return [_local(match) for match in sorted(matches) if match.is_file()]


def _at_address(pattern: str) -> list[TableFile]:
    if PurePosixPath(pattern).suffix.lower() in FORMATS and "*" not in pattern:
        return [_table(pattern)]
    try:
        addresses = list_addresses(pattern if "*" in pattern else f"{pattern.rstrip('/')}/*")
    except OSError as error:
        raise DataError(
            f"{pattern}: cannot be listed ({error}); expected the address of a table. Check the "
            "address and your access to it"
        ) from error
    return _one_format(pattern, addresses)


def _in_folder(folder: Path) -> list[TableFile]:
    if (folder / SPLITS).is_file():
        splits = _read_json(folder / SPLITS).get("splits", [])
        raise DataError(
            f"{folder}: a folder of several splits: {', '.join(map(str, splits))}; expected one. "
            f"Name a folder in it, such as {folder.name}/{splits[0] if splits else 'train'}"
        )
    if (folder / STATE).is_file():
        state = _read_json(folder / STATE)
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise DataError(
                f"{folder}: its rows are chosen by an index file, which is not read; expected a "
                "folder of whole files. Call flatten_indices() before save_to_disk()"
            )
        return [_local(folder / entry["filename"]) for entry in state.get("_data_files", [])]
    return _one_format(str(folder), sorted(str(path) for path in folder.iterdir()))


def _one_format(where: str, paths: Sequence[str]) -> list[TableFile]:
    """Return the tables among paths, which must all have the same format."""
    found = [_table(p) for p in paths if PurePosixPath(p).suffix.lower() in FORMATS]
    formats = {table.format for table in found}
    if len(formats) == 1:
        return found
    actual = ", ".join(table.name for table in found[:5]) or "no table"
    raise DataError(
        f"{where}: has {actual}; expected files of one format among {', '.join(FORMATS)}. "
        "Name the files, or a pattern such as '*.csv'"
    )


def _local(path: Path) -> TableFile:
    if path.is_file():
        return _table(str(path))
    names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"nearest names: {', '.join(nearest)}" if nearest else "no name there is similar"
    raise DataError(
        f"{path}: no such file; expected a table ({', '.join(FORMATS)}); {hint}. Paths are "
        "relative to data.root"
    )


def _table(path: str) -> TableFile:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in FORMATS:
        remedy = "Unpack it" if suffix in (".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz") else (
            "Write it as one of these"
        )  # fmt: skip
        raise DataError(f"{path}: not a known format; expected {', '.join(FORMATS)}. {remedy}")
    return TableFile(path, FORMATS[suffix])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected what save_to_disk() writes. Save the "
            "dataset again"
        ) from error
    return content if isinstance(content, dict) else {}
