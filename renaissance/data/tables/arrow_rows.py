"""Writing rows as uncompressed Arrow files, batch by batch, which are read in place."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from renaissance.data.mapped_arrow import ArrowBatch, ArrowSchema
from renaissance.errors import DataError

# Where a row is in its file: the line of a text file, the key of a sample in a tar.
LINE, KEY = "__line__", "__key__"
# In the metadata of a schema: how the cells of its text columns are to be read.
CELLS = b"renaissance.cells"
# A batch is written when it has this many rows, or this many characters.
BATCH_ROWS = 8192
BATCH_CHARACTERS = 8 << 20
# Of an image in a tar: the position of its first byte, and their number.
MEMBER = pa.struct([("offset", pa.int64()), ("size", pa.int64())])

Where: TypeAlias = int | str


def write_batches(path: Path, schema: ArrowSchema, batches: Iterable[ArrowBatch]) -> int:
    """Write an Arrow file, and return its number of rows."""
    num_rows = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            num_rows += batch.num_rows
    return num_rows


def write_cells(path: Path, header: Sequence[str], rows: Iterable[tuple[int, list[str]]]) -> int:
    """Write the rows of a text file with columns, and return their number; "" becomes null."""
    schema = pa.schema(
        [(LINE, pa.int64()), *((name, pa.large_string()) for name in header)], {CELLS: "text"}
    )

    def batches() -> Iterator[ArrowBatch]:
        for batch in _batched((sum(map(len, cells)), (line, cells)) for line, cells in rows):
            lines, cells = zip(*batch, strict=True)
            texts = ([cell or None for cell in column] for column in zip(*cells, strict=True))
            columns = zip([lines, *texts], schema.types, strict=True)
            yield pa.record_batch([pa.array(a, kind) for a, kind in columns], schema=schema)

    return write_batches(path, schema, batches())


def write_objects(
    path: Path,
    where: str,
    rows: Iterable[tuple[Where, dict[str, Any]]],
    images: Set[str] = frozenset(),
) -> int:
    """Write JSON objects, one row per object, and return their number.

    Each value is written as JSON: the values of one key may be of several types.

    Args:
        path: The file.
        where: Name of the column that says where a row is: `LINE` or `KEY`.
        rows: Where each row is, and its object.
        images: Keys whose values are (offset, size) of an image in a tar; complete once all rows
            have been read.
    """
    # Only the last row tells which columns there are, so the rows wait in a nameless file.
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        columns: dict[str, None] = {}
        for place, row in rows:
            columns.update(dict.fromkeys(name for name in row if name != where))
            spool.write(json.dumps([place, row]).encode() + b"\n")
        spool.seek(0)
        return write_batches(*_object_batches(path, where, list(columns), images, spool))


def _object_batches(
    path: Path, where: str, columns: Sequence[str], images: Set[str], spool: Iterable[bytes]
) -> tuple[Path, ArrowSchema, Iterator[ArrowBatch]]:
    kinds = {where: pa.int64() if where == LINE else pa.large_string()}
    kinds |= {name: MEMBER if name in images else pa.large_string() for name in columns}
    schema = pa.schema(list(kinds.items()), {CELLS: "json"})

    def cell(name: str, value: Any) -> object:
        if value is None or name == where:
            return value
        if name in images:
            return dict(zip(("offset", "size"), value, strict=True))
        return json.dumps(value, ensure_ascii=False)

    def batches() -> Iterator[ArrowBatch]:
        sized = ((len(line), json.loads(line)) for line in spool)
        for batch in _batched(sized):
            rows = [row | {where: place} for place, row in batch]
            yield pa.record_batch(
                [pa.array([cell(n, row.get(n)) for row in rows], k) for n, k in kinds.items()],
                schema=schema,
            )

    return path, schema, batches()


def _batched(sized: Iterable[tuple[int, Any]]) -> Iterator[list[Any]]:
    """Yield lists of rows, each of bounded size; the rows come with their sizes."""
    batch: list[Any] = []
    num_characters = 0
    for size, row in sized:
        batch.append(row)
        num_characters += size
        if num_characters >= BATCH_CHARACTERS or len(batch) >= BATCH_ROWS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def check_unicode(value: object, where: str) -> None:
    """Check that every text in a JSON value can be written as UTF-8.

    Raises:
        DataError: If one has half of a surrogate pair.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: a text is not valid Unicode ({error.reason}); expected whole characters. "
            "Correct the text"
        ) from error
