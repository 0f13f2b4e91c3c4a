"""Reading Parquet files in batches of bounded size."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from renaissance.data.mapped_arrow import ArrowBatch, ArrowSchema

# Batches take about this much memory once their values are written out.
BATCH_BYTES = 8 << 20
MAX_BATCH_ROWS = 8192


def parquet_rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file; memory is bounded.

    Raises:
        pyarrow.ArrowException: If it is not a whole Parquet file.
    """
    _, batches = parquet_batches(file)
    for batch in batches:
        yield from batch.to_pylist()


def parquet_batches(file: IO[bytes]) -> tuple[ArrowSchema, Iterator[ArrowBatch]]:
    """Return the schema of a Parquet file, and its batches.

    Values that the file has once and repeats by an index are dictionaries in the batches: written
    out, a file of kilobytes can take gigabytes.

    Raises:
        pyarrow.ArrowException: If it is not a whole Parquet file.
    """
    import pyarrow.parquet as pq  # Only some files need it.

    metadata = pq.read_metadata(file)
    file.seek(0)
    parquet = pq.ParquetFile(
        file, metadata=metadata, pre_buffer=False, read_dictionary=_repeated(metadata)
    )
    groups = range(metadata.num_row_groups)
    num_bytes = sum(metadata.row_group(group).total_byte_size for group in groups)
    rows = max(1, BATCH_BYTES * metadata.num_rows // max(1, num_bytes))
    batches = parquet.iter_batches(min(rows, MAX_BATCH_ROWS), use_threads=False)
    return parquet.schema_arrow, (part for batch in batches for part in _parts(batch))


def _repeated(metadata: Any) -> list[str]:
    """Return the columns of texts and bytes with dictionaries; none within other columns."""
    columns = (
        metadata.row_group(group).column(index)
        for group in range(metadata.num_row_groups)
        for index in range(metadata.num_columns)
    )
    return sorted(
        {
            column.path_in_schema
            for column in columns
            if column.physical_type == "BYTE_ARRAY"
            and any("DICTIONARY" in encoding for encoding in column.encodings)
            and "." not in column.path_in_schema
        }
    )


def _parts(batch: ArrowBatch) -> Iterator[ArrowBatch]:
    """Divide a batch by the largest values that its rows may have."""
    import pyarrow.compute as pc

    largest = sum(
        pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        for column in batch.columns
        if pa.types.is_dictionary(column.type)
    )
    step = max(1, BATCH_BYTES // max(1, largest))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)
