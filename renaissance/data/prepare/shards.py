"""Writing prepared tables: streamed, checked, and there whole or not at all.

What a dataset's own module lists as records, this module reads, checks, shuffles and writes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from renaissance.data.order import Permutation
from renaissance.data.prepare.image_files import image_fault
from renaissance.errors import DataError
from renaissance.randomness import keyed_seed

# A batch is written when it holds this much: the most that preparation keeps in memory.
BATCH_BYTES = 32 << 20
BATCH_ROWS = 1000
NUM_EXAMPLES = 5


@attrs.frozen
class Record:
    """A row to be written.

    Attributes:
        images: Image files, by the column that takes their bytes.
        values: The other columns.
        num_texts: How many texts the row holds, for the report.
    """

    images: Mapping[str, Path]
    values: Mapping[str, Any]
    num_texts: int


@attrs.frozen
class LeftOut:
    """Something that was not written.

    Attributes:
        table: Name of the table.
        record: What of the source it was.
        reason: Why.
        is_row: True for a whole row, False for one of its texts.
    """

    table: str
    record: str
    reason: str
    is_row: bool = True


@attrs.frozen
class TableReport:
    """What one file holds.

    Attributes:
        rows: Number of rows.
        texts: Number of texts.
        images: Number of images.
        size: Size of the file, bytes.
        sha256: Its digest.
    """

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


def write_tables(
    tables: Mapping[str, Sequence[Record]],
    *,
    schema: Any,
    output: Path,
    name: str,
    source: Path,
    left_out: Sequence[LeftOut],
    seed: int,
    max_missing: float,
    progress: bool,
) -> Report:
    """Write `{table}.arrow` for each table, and `{name}_manifest.json`.

    Files are written beside their places and renamed when all of them are complete. The rows of a
    table are shuffled by the seed, so that reading in order is no worse than reading at random.

    Args:
        tables: Records by table.
        schema: The pyarrow schema of all tables.
        output: Folder for the files; made if need be.
        name: Name of the dataset.
        source: Where the records come from, for the manifest and for messages.
        left_out: What was left out when the records were listed.
        seed: Of the order of rows.
        max_missing: Largest fraction of rows that may be left out.
        progress: Whether to show progress on standard error.

    Raises:
        DataError: If too many rows are left out, or a file cannot be written.
    """
    gaps = _Gaps(source, list(left_out), sum(map(len, tables.values())), max_missing)
    # Known before the first byte is written: a wrong folder must not cost an hour.
    present = {table: gaps.without_missing(table, records) for table, records in tables.items()}
    partials = {table: output / f"{table}.arrow.partial" for table in tables}
    try:
        output.mkdir(parents=True, exist_ok=True)
        reports = {}
        for table, records in present.items():
            rows = _shuffled(records, keyed_seed(seed, "prepare", table))
            shown = track(
                rows,
                table,
                len(records),
                console=Console(stderr=True),
                disable=not progress,
            )
            with partials[table].open("wb") as file:
                reports[f"{table}.arrow"] = _write_table(file, table, shown, schema, gaps)
        for table, partial in partials.items():
            partial.rename(output / f"{table}.arrow")
        report = Report(output / f"{name}_manifest.json", reports, tuple(gaps.left_out))
        _write_manifest(report, name, source, seed)
    except OSError as error:
        raise DataError(
            f"{output}: cannot write ({error}); expected a folder with room for the images of "
            f"{source}. Free space, or choose another output"
        ) from error
    finally:
        for partial in partials.values():
            if partial.exists():
                partial.unlink()
    return report


@attrs.define
class _Gaps:
    """Keeps account of what is left out, and stops when it is too much."""

    source: Path
    left_out: list[LeftOut]
    num_rows: int
    max_missing: float

    def __attrs_post_init__(self) -> None:
        self.num_rows += sum(entry.is_row for entry in self.left_out)
        self._check()

    def add(self, entry: LeftOut) -> None:
        """Take note of one row.

        Raises:
            DataError: If there are now too many.
        """
        self.left_out.append(entry)
        self._check()

    def without_missing(self, table: str, records: Sequence[Record]) -> list[Record]:
        """Return the records whose image files exist, and take note of the others."""
        present = []
        for record in records:
            missing = [path for path in record.images.values() if not path.is_file()]
            if missing:
                self.left_out.append(LeftOut(table, str(missing[0]), "no such file"))
            else:
                present.append(record)
        self._check()
        return present

    def _check(self) -> None:
        rows = [entry for entry in self.left_out if entry.is_row]
        if len(rows) > self.max_missing * self.num_rows:
            examples = "; ".join(f"{r.record}: {r.reason}" for r in rows[:NUM_EXAMPLES])
            raise DataError(
                f"{self.source}: {len(rows)} of {self.num_rows} records cannot be used "
                f"({examples}); expected at most the fraction {self.max_missing} (max_missing). "
                "Complete the images, or allow more; nothing was written"
            )


def _shuffled(records: Sequence[Record], key: int) -> Iterator[Record]:
    if records:
        order = Permutation(len(records), key)
        yield from (records[order[i]] for i in range(len(records)))


def _write_table(
    file: BinaryIO, table: str, records: Iterable[Record], schema: Any, gaps: _Gaps
) -> TableReport:
    sink = _HashingFile(file)
    num_rows = num_texts = num_images = 0
    batch: list[dict[str, Any]] = []
    batch_bytes = 0
    with pa.ipc.new_file(sink, schema) as writer:
        for record in records:
            images = _read_images(record, table, gaps)
            if images is None:
                continue
            batch.append({**record.values, **images})
            batch_bytes += sum(map(len, images.values()))
            num_rows += 1
            num_texts += record.num_texts
            num_images += len(images)
            if batch_bytes >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch, batch_bytes = [], 0
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    file.flush()
    os.fsync(file.fileno())
    return TableReport(num_rows, num_texts, num_images, file.tell(), sink.sha256.hexdigest())


def _read_images(record: Record, table: str, gaps: _Gaps) -> dict[str, bytes] | None:
    images = {}
    for column, path in record.images.items():
        try:
            data = path.read_bytes()
            fault = image_fault(data)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault is not None:
            gaps.add(LeftOut(table, str(path), fault))
            return None
        images[column] = data
    return images


class _HashingFile:
    """A file for pyarrow to write to, which digests what passes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leave the file open: whoever opened it closes it."""


def _write_manifest(report: Report, name: str, source: Path, seed: int) -> None:
    content = {
        "name": name,
        "source": str(source),
        "seed": seed,
        "tables": {file: attrs.asdict(table) for file, table in report.tables.items()},
        "left_out": [attrs.asdict(entry) for entry in report.left_out],
    }
    partial = report.manifest.with_name(report.manifest.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.rename(report.manifest)
