"""Inspecting prepared Arrow files: what they hold, and whether it can be read."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from renaissance.data.arrow import ArrowTable, is_list
from renaissance.data.mapped_arrow import FILE_MAGIC
from renaissance.data.open_image import COMMAND_LIMITS, ImageFaultError, ImageLimits, open_image
from renaissance.data.prepare.image_files import decode_fault
from renaissance.data.verification import manifest_entries
from renaissance.errors import DataError
from renaissance.files import sha256_of

IMAGE_COLUMNS = ("image", "image_0", "image_1")
TEXT_COLUMNS = ("caption", "questions", "sentences")
# Length of the magic at the start of an IPC file, padding included.
MAGIC_BYTES = 8
# Number of images whose headers are read, unless all are checked.
NUM_IMAGES = 1000
NUM_SAMPLES = 3
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@attrs.frozen
class Inspection:
    """What one file holds.

    Attributes:
        path: The file.
        schema: Type of each column.
        rows: Number of rows.
        texts_per_row: Smallest, mean and largest number of texts per row.
        text_lengths: Number of words per text, at the quantiles `QUANTILES`.
        formats: Number of inspected images by format.
        widths: Smallest, median and largest width, pixels.
        heights: Smallest, median and largest height, pixels.
        num_images: Number of inspected images.
        lost_areas: Mean and largest share of an image's area outside its central square, which
            transforms that crop cut off.
        samples: The first rows, with a description in place of each image.
        faults: What is wrong with the file, one line each.
    """

    path: Path
    schema: Mapping[str, str]
    rows: int
    texts_per_row: tuple[int, float, int]
    text_lengths: tuple[float, ...]
    formats: Mapping[str, int]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    num_images: int
    lost_areas: tuple[float, float]
    samples: tuple[Mapping[str, str], ...]
    faults: tuple[str, ...]


def inspect_file(
    path: Path, check: bool = False, limits: ImageLimits = COMMAND_LIMITS
) -> Inspection:
    """Inspect one Arrow file.

    Args:
        path: The file.
        check: Whether to decode every image and compare the file with its manifest.
        limits: Larger images are faults, if all are decoded.

    Raises:
        DataError: If it is not a whole Arrow file, has damaged values, or has neither images nor
            texts.
    """
    schema = _schema_or_cut(path) if check else schema_of(path)
    table = ArrowTable([path], tuple(schema))
    _check_values(path, table, schema)
    manifest_faults = list(_manifest_faults(path)) if check else []
    counts, lengths = _text_counts(table, schema)
    images = _inspect_images(path, table, schema, check, limits)
    return Inspection(
        path=path,
        schema=schema,
        rows=len(table),
        texts_per_row=(int(counts.min()), float(counts.mean()), int(counts.max()))
        if counts.size
        else (0, 0.0, 0),
        text_lengths=tuple(np.quantile(lengths, QUANTILES).tolist()) if lengths.size else (),
        formats=dict(images.formats.most_common()),
        widths=range_of([width for width, _ in images.sizes]),
        heights=range_of([height for _, height in images.sizes]),
        num_images=len(images.sizes),
        lost_areas=lost_areas(images.sizes),
        samples=tuple(_sample(table, schema, row) for row in range(min(NUM_SAMPLES, len(table)))),
        faults=(*manifest_faults, *images.faults),
    )


def row_texts(table: ArrowTable, columns: Collection[str], row: int) -> list[str]:
    """Return the texts of a row; of a premise and a hypothesis, only the hypothesis."""
    for column in TEXT_COLUMNS:
        if column in columns:
            value = table.value(column, row).as_py()
            texts = value if isinstance(value, list) else [value]
            return [str(text[-1] if isinstance(text, list) else text) for text in texts]
    return []


def schema_of(path: Path) -> dict[str, str]:
    """Return the type of each column.

    Raises:
        DataError: If it is not a whole Arrow file, or has neither images nor texts.
    """
    # Only for its error, which says what is wrong with a file that cannot be read.
    ArrowTable([path], ())
    with pa.memory_map(str(path)) as mapped:
        try:
            schema = pa.ipc.open_file(mapped).schema
        except pa.ArrowInvalid:
            mapped.seek(0)
            schema = pa.ipc.open_stream(mapped).schema
    types = {field.name: str(field.type) for field in schema}
    if not types.keys() & {*IMAGE_COLUMNS, *TEXT_COLUMNS}:
        raise DataError(
            f"{path}: has {', '.join(types)}; expected one of "
            f"{', '.join((*IMAGE_COLUMNS, *TEXT_COLUMNS))}. Name a file that "
            "'renaissance data prepare' wrote"
        )
    return types


@attrs.define
class _Images:
    """Formats, sizes and faults of the inspected images."""

    formats: Counter[str] = attrs.field(factory=Counter)
    sizes: list[tuple[int, int]] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)


def _inspect_images(
    path: Path, table: ArrowTable, columns: Collection[str], check: bool, limits: ImageLimits
) -> _Images:
    images = _Images()
    for row in rows_to_inspect(len(table), check):
        for column in [name for name in IMAGE_COLUMNS if name in columns]:
            data = table.value(column, row).as_py() or b""
            try:
                fault = decode_fault(data, limits) if check else None
                image = open_image(data, "")
            except ImageFaultError as error:
                fault = error.fault
            if fault is not None:
                images.faults.append(f"{path}: row {row}: {column}: {fault}")
                continue
            images.formats[f"{image.format} {image.mode}"] += 1
            images.sizes.append(image.size)
    return images


def _schema_or_cut(path: Path) -> dict[str, str]:
    """Return the type of each column; if the file is cut short, report how many rows are whole."""
    try:
        return schema_of(path)
    except DataError as error:
        num_rows = _num_whole_rows(path) if path.is_file() else 0
        if num_rows == 0:
            raise
        raise DataError(f"{error}. The first {num_rows:,} rows are whole") from error


def _num_whole_rows(path: Path) -> int:
    """Count the rows before the first record batch that cannot be read."""
    num_rows = 0
    with path.open("rb") as file, contextlib.suppress(pa.ArrowException, OSError):
        # Both layouts are streams of batches; an IPC file has its padded magic in front.
        file.seek(MAGIC_BYTES if file.read(len(FILE_MAGIC)) == FILE_MAGIC else 0)
        for batch in pa.ipc.open_stream(file):
            num_rows += batch.num_rows
    return num_rows


def _check_values(path: Path, table: ArrowTable, columns: Collection[str]) -> None:
    """Check offsets and UTF-8, since reading a file where these are damaged would crash.

    Raises:
        DataError: If they are damaged; the message names the rows of the record batch.
    """
    for column in columns:
        first = 0
        for array in table.column(column):
            try:
                array.validate(full=True)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{path}: rows {first} to {first + len(array) - 1}: column '{column}' is "
                    f"damaged ({error}). Copy or prepare the file again"
                ) from error
            first += len(array)


def _manifest_faults(path: Path) -> Iterator[str]:
    entry = manifest_entries([path]).get(path)
    if entry is None:
        yield f"{path}: no manifest in its folder lists it, so its checksum is unknown"
    elif sha256_of(path) != entry["sha256"]:
        yield f"{path}: its SHA-256 is not the one in {entry['manifest']}: its content has changed"


def _text_counts(
    table: ArrowTable, schema: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of texts per row, and the number of words per text."""
    column = next((name for name in TEXT_COLUMNS if name in schema), None)
    counts: list[int] = []
    lengths: list[int] = []
    for array in table.column(column) if column is not None else ():
        # Batch by batch: a file may be larger than memory.
        for value in array.to_pylist():
            texts = value if is_list(array.type) else [value]
            counts.append(len(texts or ()))
            lengths.extend(
                len(str(text[-1] if isinstance(text, list) else text).split())
                for text in texts or ()
            )
    return np.array(counts, np.int64), np.array(lengths, np.int64)


def rows_to_inspect(num_rows: int, check: bool) -> Sequence[int]:
    """Return the rows whose images are read: all, or at most `NUM_IMAGES`."""
    if check or num_rows <= NUM_IMAGES:
        return range(num_rows)
    # Spread evenly over the file.
    return [i * num_rows // NUM_IMAGES for i in range(NUM_IMAGES)]


def lost_areas(sizes: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return mean and largest share of the area that is not in a centred square."""
    losses = [1 - min(size) / max(size) for size in sizes]
    return (float(np.mean(losses)), max(losses)) if losses else (0.0, 0.0)


def range_of(values: Sequence[int]) -> tuple[int, int, int]:
    """Return the smallest, median and largest value; zeros if there are none."""
    if not values:
        return 0, 0, 0
    return min(values), int(np.median(values)), max(values)


def _sample(table: ArrowTable, schema: Mapping[str, str], row: int) -> dict[str, str]:
    described = {}
    for column in schema:
        value = table.value(column, row).as_py()
        if isinstance(value, bytes):
            digest = hashlib.sha256(value).hexdigest()[:8]
            described[column] = f"{len(value):,} bytes, sha256 {digest}..."
        else:
            described[column] = str(value)
    return described
