"""Listing the records of a source, and stopping early if too many cannot be used."""

from collections.abc import Iterator
from pathlib import Path

import attrs
from rich.progress import Progress

from renaissance.contracts.source import LeftOut, Record, Source
from renaissance.data.prepare.image_files import stamp
from renaissance.data.prepare.record_store import RecordStore
from renaissance.errors import DataError, named

NUM_EXAMPLES = 5


@attrs.define
class Omissions:
    """Collects what is left out, and stops the preparation when that is too much.

    Attributes:
        source: Where the records come from, for messages.
        max_missing: Largest fraction of rows that may be left out.
        num_rows: Rows of the source, left out or not.
        entries: What is left out.
    """

    source: str
    max_missing: float
    num_rows: int = 0
    entries: list[LeftOut] = attrs.field(factory=list)
    _num_rows_left_out: int = 0

    def add(self, entry: LeftOut) -> None:
        """Add something left out."""
        self.entries.append(entry)
        self._num_rows_left_out += entry.is_row

    def copy(self) -> "Omissions":
        """Return what is left out so far, to go on from there."""
        copied = Omissions(self.source, self.max_missing, self.num_rows)
        for entry in self.entries:
            copied.add(entry)
        return copied

    def check(self) -> None:
        """Stop if too much is left out.

        Raises:
            DataError: If it is.
        """
        if self._num_rows_left_out > self.max_missing * self.num_rows:
            rows = [entry for entry in self.entries if entry.is_row]
            examples = "; ".join(f"{r.record}: {r.reason}" for r in rows[:NUM_EXAMPLES])
            raise DataError(
                f"{self.source}: {len(rows)} of {self.num_rows} records cannot be used "
                f"({examples}); expected at most the fraction {self.max_missing} (--max-missing). "
                "Complete the images, or allow more; nothing was written"
            )


def list_records(
    source: Source, work: Path, omissions: Omissions, progress: Progress
) -> dict[str, RecordStore]:
    """Return the records of each table whose image files exist.

    Args:
        source: The source.
        work: Folder with room for the records.
        omissions: Collects those that cannot be used.
        progress: Where progress is shown.

    Raises:
        DataError: If too many cannot be used, there are none, or the annotations have another form.
    """
    tables: dict[str, RecordStore] = {}
    task = progress.add_task("listing", total=None)
    for entry in _well_formed(source):
        if isinstance(entry, LeftOut):
            omissions.add(entry)
            omissions.num_rows += entry.is_row
            continue
        progress.advance(task)
        omissions.num_rows += 1
        if entry.table not in tables:
            tables[entry.table] = RecordStore(work)
        stamps = {file: stamp(file) for file in entry.images.values()}
        missing = [file for file, current in stamps.items() if current is None]
        if missing:
            omissions.add(LeftOut(entry.table, str(missing[0]), "no such file"))
        else:
            tables[entry.table].append(entry, [current or "" for current in stamps.values()])
    progress.remove_task(task)
    # Before any image is read, so that a wrong folder is reported within minutes.
    omissions.check()
    if not tables:
        raise DataError(
            f"{source.path}: no records; expected at least one. Check the source and its splits"
        )
    return tables


def _well_formed(source: Source) -> Iterator[Record | LeftOut]:
    count = 0
    try:
        for entry in source.records():
            yield entry
            count += 1
    # What a source raises when annotations do not have the official form.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{source.path}: after {count} records: {named(error)}; expected the "
            "official annotations, of which something is missing here. Download the file again"
        ) from error
