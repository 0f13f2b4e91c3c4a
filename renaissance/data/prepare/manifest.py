"""The report of a preparation: what was written, and what was left out."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from renaissance.contracts.source import LeftOut
from renaissance.errors import DataError
from renaissance.files import read_json, write_whole


@attrs.frozen
class TableReport:
    """What one file holds.

    Attributes:
        table: Name of the table that the file belongs to.
        rows: Number of rows.
        texts: Number of texts.
        images: Number of images.
        size: Size of the file, bytes.
        sha256: Its digest.
    """

    table: str
    rows: int
    texts: int
    images: int
    size: int
    sha256: str


@attrs.frozen
class Report:
    """What a preparation wrote.

    Attributes:
        manifest: The file with the same content.
        tables: What each file holds, by file name.
        left_out: What was not written.
        num_missing: Files that other parts have not written yet: then there is no manifest.
    """

    manifest: Path
    tables: Mapping[str, TableReport]
    left_out: tuple[LeftOut, ...]
    num_missing: int = 0

    def count_left_out(self) -> Counter[tuple[str, str]]:
        """Count what was left out by table and reason, ignoring numbers and names in reasons."""
        return Counter((entry.table, _kind(entry.reason)) for entry in self.left_out)


def _kind(reason: str) -> str:
    return re.sub(r"\d+", "N", re.split(r"[:(]", reason)[0]).strip()


def earlier_entries(manifest: Path) -> tuple[dict[str, Any], list[Any]]:
    """Return what an earlier preparation wrote, by file name, and what it left out.

    Entries that no preparation has written are ignored: files that they name would be deleted.
    """
    content = read_json(manifest)
    tables, left_out = content.get("tables"), content.get("left_out")
    return (
        {
            name: entry
            for name, entry in (tables.items() if isinstance(tables, dict) else ())
            if Path(name).name == name and _has_table(entry)
        },
        [entry for entry in (left_out if isinstance(left_out, list) else ()) if _has_table(entry)],
    )


def _has_table(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("table"), str)


def refuse_other_source(manifest: Path, source: str, tables_of: Mapping[str, str]) -> None:
    """Refuse to replace files that were prepared from something else.

    Args:
        manifest: The manifest that will list the files.
        source: Where their rows come from.
        tables_of: The table of each file.

    Raises:
        DataError: Naming the manifest, and the source that it names.
    """
    for other in sorted(manifest.parent.glob("*_manifest.json")):
        for file, entry in earlier_entries(other)[0].items():
            is_mine = other == manifest and entry["table"] in tables_of.values()
            is_same = other == manifest and _is_same(str(entry.get("source")), source)
            if (is_mine or file in tables_of) and not is_same:
                origin = entry.get("source")
                raise DataError(
                    f"{manifest.parent / file}: prepared from {origin} ({other.name}), "
                    f"expected {source}; it would be replaced. Choose another output, or delete "
                    f"{other} to replace it"
                )


def _is_same(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # File names may hold bytes that are not valid UTF-8.
    write_whole(path, text.encode(errors="backslashreplace"))
