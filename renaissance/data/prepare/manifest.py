"""The account of a preparation: what was written, and what was left out."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from renaissance.data.prepare.records import LeftOut
from renaissance.errors import DataError

NUM_EXAMPLES = 5
CHUNK_BYTES = 1 << 20


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
        manifest: The file that says the same.
        tables: What each file holds, by file name.
        left_out: What was not written.
    """

    manifest: Path
    tables: Mapping[str, TableReport]
    left_out: tuple[LeftOut, ...]


@attrs.define
class Gaps:
    """Keeps account of what is left out, and stops when it is too much.

    Attributes:
        source: Where the records come from, for messages.
        max_missing: Largest fraction of rows that may be left out.
        num_rows: Rows of the source, left out or not.
        left_out: The account.
    """

    source: str
    max_missing: float
    num_rows: int = 0
    left_out: list[LeftOut] = attrs.field(factory=list)
    _num_rows_left_out: int = 0

    def add(self, entry: LeftOut) -> None:
        """Take note of something left out."""
        self.left_out.append(entry)
        self._num_rows_left_out += entry.is_row

    def check(self) -> None:
        """Stop if too much is left out.

        Raises:
            DataError: If it is.
        """
        if self._num_rows_left_out > self.max_missing * self.num_rows:
            rows = [entry for entry in self.left_out if entry.is_row]
            examples = "; ".join(f"{r.record}: {r.reason}" for r in rows[:NUM_EXAMPLES])
            raise DataError(
                f"{self.source}: {len(rows)} of {self.num_rows} records cannot be used "
                f"({examples}); expected at most the fraction {self.max_missing} (max_missing). "
                "Complete the images, or allow more; nothing was written"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read one of preparation's own files; what is not there or not whole counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(content, indent=1, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def sha256_of(path: Path) -> str:
    """Return the digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
