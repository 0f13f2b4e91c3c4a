"""Preparing a dataset: list its records, write its files one by one, then move all into place.

An interrupted preparation resumes with the file that it was writing. Finished files wait in the
folder `{name}.partial`, each with the digest of the records and options that it was made from.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import attrs
import pyarrow as pa
from rich.progress import Progress

from renaissance.contracts.source import LeftOut, Source
from renaissance.data.order import Permutation
from renaissance.data.prepare.arrow_file import write_arrow_file
from renaissance.data.prepare.image_reader import ImageReader
from renaissance.data.prepare.listing import Omissions, list_records
from renaissance.data.prepare.manifest import (
    Report,
    TableReport,
    earlier_entries,
    refuse_other_source,
    write_json,
)
from renaissance.data.prepare.options import PrepareOptions
from renaissance.data.prepare.progress import progress_bars
from renaissance.data.prepare.record_store import RecordStore
from renaissance.errors import DataError, shortened
from renaissance.files import locked, read_json, sha256_of
from renaissance.randomness import keyed_seed

# Seconds for which a part waits for another one that moves the files into place.
JOIN_PATIENCE = 600.0


@attrs.frozen
class _FilePlan:
    """A file to be written: part of a table in its shuffled order.

    Attributes:
        stem: Its name without `.arrow`.
        table: Name of the table.
        records: All records of the table.
        key: Key of the table's order.
        start: First position in that order.
        stop: First position after the file's last row.
        fingerprint: Digest of everything that determines the file's content.
    """

    stem: str
    table: str
    records: RecordStore
    key: int
    start: int
    stop: int
    fingerprint: str

    @property
    def file(self) -> str:
        return f"{self.stem}.arrow"

    def indices(self) -> Iterator[int]:
        if self.stop > self.start:
            order = Permutation(len(self.records), self.key)
            yield from (order[position] for position in range(self.start, self.stop))


def write_tables(source: Source, options: PrepareOptions) -> Report:
    """Write the tables of a source, its manifest, and its further JSON files.

    A part writes its share of the files into the folder `{name}.partial`. The part that finds all
    of them there moves them into place.

    Raises:
        DataError: If too many rows are left out, or a file cannot be written.
    """
    output = options.output
    work = output / f"{source.name}.partial"
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _alone(source.name, options), progress_bars(options.progress) as progress:
            work.mkdir(exist_ok=True)
            try:
                return _write_and_join(source, options, work, progress)
            finally:
                _remove_if_empty(work)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(
            f"{source.path}: a value does not fit its column ({shortened(str(error))}); expected "
            "the columns of the official annotations. Correct it, or download the file again"
        ) from error
    except OSError as error:
        raise DataError(
            f"{output}: cannot write ({error}); expected a folder with room for the images of "
            f"{source.path}. Free space, or choose another output; the same command resumes where "
            "it stopped"
        ) from error
    finally:
        _remove_if_empty(output)


def _write_and_join(
    source: Source, options: PrepareOptions, work: Path, progress: Progress
) -> Report:
    manifest = options.output / f"{source.name}_manifest.json"
    omissions = Omissions(source.path, options.max_missing)
    tables = list_records(source, work, omissions, progress)
    plans = list(_plan_files(source, tables, options))
    refuse_other_source(manifest, source.path, {plan.file: plan.table for plan in plans})
    listed = omissions.copy()
    writer = _Writer(source, options, omissions, progress, work)
    if options.part is None:
        reports = writer.write(plans)
        _put_in_place(source, options, reports, omissions, work)
        return Report(manifest, reports, tuple(omissions.entries))
    reports = writer.write(options.part.of(plans))
    with _only(options.output, source.name, JOIN_PATIENCE):
        num_waiting = sum(map(writer.is_waiting, plans))
        if num_waiting == len(plans):
            joined = attrs.evolve(writer, omissions=listed)
            _put_in_place(source, options, joined.write(plans), listed, work)
    return Report(manifest, reports, tuple(omissions.entries), len(plans) - num_waiting)


def _alone(name: str, options: PrepareOptions) -> AbstractContextManager[None]:
    """Return the lock of a preparation, or of a part, which no whole one must run beside."""
    if options.part is None:
        for path in options.output.glob(f"{name}.*-of-*.lock"):
            with _only(options.output, path.stem):
                pass
        return _only(options.output, name)
    with _only(options.output, name, JOIN_PATIENCE):
        pass
    return _only(options.output, f"{name}.{options.part}")


def _only(output: Path, what: str, patience: float = 0.0) -> AbstractContextManager[None]:
    """Return a context that one process can be in at a time."""
    busy = DataError(
        f"{output}: another process is preparing {what} in this folder; expected one at a time. "
        "Wait until it has ended, or choose another output"
    )
    return locked(output / f"{what}.lock", busy, patience)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _plan_files(
    source: Source, tables: Mapping[str, RecordStore], options: PrepareOptions
) -> Iterator[_FilePlan]:
    for table, records in tables.items():
        digest = records.finish()
        key = keyed_seed(options.seed, "prepare", table)
        size = source.rows_per_file or max(1, len(records))
        for index, start in enumerate(range(0, max(1, len(records)), size)):
            stop = min(start + size, len(records))
            stem = table if source.rows_per_file is None else f"{table}_{index}"
            made_from = (digest, source.schema, options.of_rows(), start, stop, _version())
            fingerprint = hashlib.sha256(repr(made_from).encode()).hexdigest()
            yield _FilePlan(stem, table, records, key, start, stop, fingerprint)


@attrs.frozen
class _Writer:
    """Writes files into the folder `work`, except those that an interrupted run finished."""

    source: Source
    options: PrepareOptions
    omissions: Omissions
    progress: Progress
    work: Path

    def write(self, plans: Sequence[_FilePlan]) -> dict[str, TableReport]:
        """Return what each file holds, by file name."""
        with ThreadPoolExecutor(self.options.workers) as pool:
            return {plan.file: self._resume(plan) or self._write(plan, pool) for plan in plans}

    def is_waiting(self, plan: _FilePlan) -> bool:
        """Return whether a file is finished, and not in place yet."""
        note = read_json(self.work / f"{plan.stem}.json")
        return note.get("fingerprint") == plan.fingerprint and (self.work / plan.file).exists()

    def _leave_out(self, entry: LeftOut) -> None:
        self.omissions.add(entry)
        self.omissions.check()

    def _write(self, plan: _FilePlan, pool: ThreadPoolExecutor) -> TableReport:
        options = self.options
        reader = ImageReader(
            check=options.check,
            resize=options.resize,
            workers=options.workers,
            limits=options.limits,
        )
        rows = self.progress.track(
            reader.read_in_order(plan.records, plan.indices(), pool),
            total=plan.stop - plan.start,
            description=plan.file,
        )
        before = len(self.omissions.entries)
        partial = self.work / f"{plan.file}.partial"
        try:
            report = write_arrow_file(
                partial, plan.table, rows, self.source.schema, self._leave_out
            )
            partial.replace(self.work / plan.file)
        finally:
            partial.unlink(missing_ok=True)
        note = {
            "fingerprint": plan.fingerprint,
            "report": attrs.asdict(report),
            "left_out": [attrs.asdict(entry) for entry in self.omissions.entries[before:]],
        }
        write_json(self.work / f"{plan.stem}.json", note)
        return report

    def _resume(self, plan: _FilePlan) -> TableReport | None:
        """Return the report of this file if an interrupted run had finished it."""
        note = read_json(self.work / f"{plan.stem}.json")
        if note.get("fingerprint") != plan.fingerprint:
            return None
        try:
            report = TableReport(**note["report"])
            left_out = [LeftOut(**entry) for entry in note["left_out"]]
        except (KeyError, TypeError):
            return None  # Damaged: the file is written again.
        waiting, placed = self.work / plan.file, self.options.output / plan.file
        if not waiting.exists():
            # The run was interrupted while it moved its files. The file there may be an older one.
            if not placed.exists() or sha256_of(placed) != report.sha256:
                return None
        elif waiting.stat().st_size != report.size:
            return None
        for entry in left_out:
            self._leave_out(entry)
        return report


def _put_in_place(
    source: Source,
    options: PrepareOptions,
    reports: Mapping[str, TableReport],
    omissions: Omissions,
    work: Path,
) -> None:
    output = options.output
    manifest = output / f"{source.name}_manifest.json"
    tables, left_out = earlier_entries(manifest)
    rewritten = {report.table for report in reports.values()}
    # Files that an earlier preparation wrote for other splits remain, and stay in the manifest.
    kept = {
        name: entry
        for name, entry in tables.items()
        if entry["table"] not in rewritten and (output / name).exists()
    }
    # A table may have fewer files than before; old ones would be read along with the new ones.
    for name, entry in tables.items():
        if entry["table"] in rewritten and name not in reports:
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
            *(entry for entry in left_out if entry["table"] not in rewritten),
            *(attrs.asdict(entry) for entry in omissions.entries),
        ],
    }
    write_json(manifest, content)
    shutil.rmtree(work)


def _version() -> str:
    return f"renaissance {version('renaissance')}"
