"""Preparing a dataset: list its records, write its files one by one, put them in place together.

A preparation that was interrupted goes on with the file that it was writing: finished ones wait in
the folder `{name}.partial`, each with the digest of the records and options that it was made from.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
from rich.progress import Progress

from renaissance.data.order import Permutation
from renaissance.data.prepare.manifest import (
    Gaps,
    Report,
    TableReport,
    read_json,
    sha256_of,
    write_json,
)
from renaissance.data.prepare.progress import progress_bars
from renaissance.data.prepare.records import LeftOut, Record, RecordFile, Source
from renaissance.data.prepare.shards import Reading, read_in_order, write_shard
from renaissance.errors import DataError
from renaissance.randomness import keyed_seed


@attrs.frozen(kw_only=True)
class PrepareOptions:
    """How to prepare, alike for every dataset.

    Attributes:
        output: Folder for the files; made if need be.
        seed: Of the order of rows, so that reading in order is no worse than reading at random.
        workers: Threads that read and check images.
        resize: Shorter side to scale images down to, pixels; None leaves their bytes as they are.
        check: Whether to decode each image fully.
        max_missing: Largest fraction of rows that may be left out.
        progress: Whether to show progress on standard error.
    """

    output: Path
    seed: int = 0
    workers: int = 1
    resize: int | None = None
    check: bool = False
    max_missing: float = 0.01
    progress: bool = True

    def of_rows(self) -> dict[str, Any]:
        """Return the options that decide what is written."""
        return {"seed": self.seed, "resize": self.resize, "check": self.check}


@attrs.frozen
class _Shard:
    """A file to be written: part of a table in its shuffled order."""

    stem: str
    table: str
    records: RecordFile
    key: int
    start: int
    stop: int
    fingerprint: str

    def positions(self) -> Iterator[int]:
        if self.stop > self.start:
            order = Permutation(len(self.records), self.key)
            yield from (order[i] for i in range(self.start, self.stop))


def write_tables(source: Source, options: PrepareOptions) -> Report:
    """Write the tables of a source, its manifest, and what goes beside.

    Raises:
        DataError: If too many rows are left out, or a file cannot be written.
    """
    output = options.output
    work = output / f"{source.name}.partial"
    gaps = Gaps(source.path, options.max_missing)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _locked(output, source.name), progress_bars(options.progress) as progress:
            work.mkdir(exist_ok=True)
            try:
                tables = _list_records(source, work, gaps, progress)
                shards = list(_shards(source, tables, options))
                reports = _write_shards(shards, source, options, gaps, progress, work)
                _put_in_place(source, options, reports, gaps, work)
            finally:
                _remove_if_empty(work)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(
            f"{source.path}: a value does not fit its column ({error}); expected the columns of "
            "the official annotations. Correct it, or download the file again"
        ) from error
    except OSError as error:
        raise DataError(
            f"{output}: cannot write ({error}); expected a folder with room for the images of "
            f"{source.path}. Free space, or choose another output; repeated, the command goes on "
            "where it stopped"
        ) from error
    finally:
        _remove_if_empty(output)
    return Report(output / f"{source.name}_manifest.json", reports, tuple(gaps.left_out))


@contextlib.contextmanager
def _locked(output: Path, name: str) -> Iterator[None]:
    """Keep others from preparing the same name in the same folder.

    The system frees the lock of a process that ends, be it killed.

    Raises:
        DataError: If another process is at it.
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
            # Between opening and locking, the one before may have removed the file.
            if os.fstat(file.fileno()).st_nlink:
                try:
                    yield
                finally:
                    path.unlink()
                return


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _list_records(
    source: Source, work: Path, gaps: Gaps, progress: Progress
) -> dict[str, tuple[RecordFile, str]]:
    """Return the records of each table whose image files exist, with a digest."""
    tables: dict[str, RecordFile] = {}
    task = progress.add_task("listing", total=None)
    for entry in _well_formed(source):
        if isinstance(entry, LeftOut):
            gaps.add(entry)
            gaps.num_rows += entry.is_row
            continue
        progress.advance(task)
        gaps.num_rows += 1
        if entry.table not in tables:
            tables[entry.table] = RecordFile(work)
        stamps = {image: image.stamp() for image in entry.images.values()}
        missing = [image for image, stamp in stamps.items() if stamp is None]
        if missing:
            gaps.add(LeftOut(entry.table, str(missing[0]), "no such file"))
        else:
            tables[entry.table].append(entry, [stamp or "" for stamp in stamps.values()])
    progress.remove_task(task)
    # Known before the first image is read: a wrong folder must not cost an hour.
    gaps.check()
    if not tables:
        raise DataError(
            f"{source.path}: no records; expected at least one. Check the source and its splits"
        )
    return {table: (records, records.finish()) for table, records in tables.items()}


def _well_formed(source: Source) -> Iterator[Record | LeftOut]:
    number = 0
    try:
        for entry in source.records():
            yield entry
            number += 1
    # What parsing official annotations raises where they have another form.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{source.path}: after {number} records: {type(error).__name__}: {error}; expected the "
            "official annotations, of which something is missing here. Download the file again"
        ) from error


def _shards(
    source: Source, tables: Mapping[str, tuple[RecordFile, str]], options: PrepareOptions
) -> Iterator[_Shard]:
    for table, (records, digest) in tables.items():
        key = keyed_seed(options.seed, "prepare", table)
        size = source.rows_per_file or max(1, len(records))
        for number, start in enumerate(range(0, max(1, len(records)), size)):
            stop = min(start + size, len(records))
            stem = table if source.rows_per_file is None else f"{table}_{number}"
            made_from = (digest, source.schema, options.of_rows(), start, stop, _version())
            fingerprint = hashlib.sha256(repr(made_from).encode()).hexdigest()
            yield _Shard(stem, table, records, key, start, stop, fingerprint)


def _write_shards(
    shards: Iterable[_Shard],
    source: Source,
    options: PrepareOptions,
    gaps: Gaps,
    progress: Progress,
    work: Path,
) -> dict[str, TableReport]:
    reports = {}

    def leave_out(entry: LeftOut) -> None:
        gaps.add(entry)
        gaps.check()

    reading = Reading(check=options.check, resize=options.resize, workers=options.workers)
    with ThreadPoolExecutor(options.workers) as pool:
        for shard in shards:
            known = _finished(shard, work, options.output)
            if known is not None:
                report, left_out = known
                for entry in left_out:
                    leave_out(entry)
            else:
                before = len(gaps.left_out)
                rows = progress.track(
                    read_in_order(shard.records, shard.positions(), reading, pool),
                    total=shard.stop - shard.start,
                    description=f"{shard.stem}.arrow",
                )
                partial = work / f"{shard.stem}.arrow.partial"
                try:
                    report = write_shard(partial, shard.table, rows, source.schema, leave_out)
                    partial.replace(work / f"{shard.stem}.arrow")
                finally:
                    partial.unlink(missing_ok=True)
                _note_finished(shard, work, report, gaps.left_out[before:])
            reports[f"{shard.stem}.arrow"] = report
    return reports


def _note_finished(
    shard: _Shard, work: Path, report: TableReport, left_out: Iterable[LeftOut]
) -> None:
    note = {
        "fingerprint": shard.fingerprint,
        "report": attrs.asdict(report),
        "left_out": [attrs.asdict(entry) for entry in left_out],
    }
    write_json(work / f"{shard.stem}.json", note)


def _finished(shard: _Shard, work: Path, output: Path) -> tuple[TableReport, list[LeftOut]] | None:
    """Return what an interrupted run noted of this file, if it had finished it."""
    note = read_json(work / f"{shard.stem}.json")
    if note.get("fingerprint") != shard.fingerprint:
        return None
    report = TableReport(**note["report"])
    waiting, placed = work / f"{shard.stem}.arrow", output / f"{shard.stem}.arrow"
    if not waiting.exists():
        # The run was interrupted while it put its files in place. The one there may be older.
        if not placed.exists() or sha256_of(placed) != report.sha256:
            return None
    elif waiting.stat().st_size != report.size:
        return None
    return report, [LeftOut(**entry) for entry in note["left_out"]]


def _put_in_place(
    source: Source,
    options: PrepareOptions,
    reports: Mapping[str, TableReport],
    gaps: Gaps,
    work: Path,
) -> None:
    output = options.output
    manifest = output / f"{source.name}_manifest.json"
    earlier = read_json(manifest)
    made_anew = {report.table for report in reports.values()}
    # What an earlier preparation wrote for other splits is still there, and stays on record.
    kept = {
        name: entry
        for name, entry in earlier.get("tables", {}).items()
        if entry["table"] not in made_anew and (output / name).exists()
    }
    # Fewer files than before: the rest would be read with the new ones.
    for name, entry in earlier.get("tables", {}).items():
        if entry["table"] in made_anew and name not in reports:
            (output / name).unlink(missing_ok=True)
    for name in reports:
        if (work / name).exists():
            (work / name).replace(output / name)
    for name, content in source.beside.items():
        write_json(output / name, content)
    origin = {"source": source.path, **options.of_rows(), "version": _version()}
    content = {
        "name": source.name,
        "tables": kept | {name: attrs.asdict(r) | origin for name, r in reports.items()},
        "left_out": [
            *(entry for entry in earlier.get("left_out", []) if entry["table"] not in made_anew),
            *(attrs.asdict(entry) for entry in gaps.left_out),
        ],
    }
    write_json(manifest, content)
    shutil.rmtree(work)


def _version() -> str:
    return f"renaissance {version('renaissance')}"
