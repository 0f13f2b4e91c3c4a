"""Inspecting tables of any format: what they hold, and whether images can be read."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from renaissance.data.arrow import is_binary, is_text
from renaissance.data.contact_sheet import CELL, draw_sheet, rows_to_draw
from renaissance.data.images import decoded, to_rgb, upright
from renaissance.data.inspect import (
    IMAGE_COLUMNS,
    NUM_SAMPLES,
    QUANTILES,
    TEXT_COLUMNS,
    Inspection,
    lost_areas,
    range_of,
    rows_to_inspect,
)
from renaissance.data.open_image import COMMAND_LIMITS, ImageLimits, open_image
from renaissance.data.prepare.image_files import decode_fault
from renaissance.data.prepare.webdataset import IMAGE_SUFFIXES
from renaissance.data.tables.cache import default_cache
from renaissance.data.tables.files import find_tables
from renaissance.data.tables.pictures import ImageColumn
from renaissance.data.tables.table import Table
from renaissance.errors import DataError, quoted, shortened

# Rows in which images and texts are looked for.
NUM_GUESSED = 50
SUFFIXES = {f".{suffix}" for suffix in IMAGE_SUFFIXES}


class InspectedTable:
    """A table of which it is found out which columns hold images, and which texts.

    Args:
        path: A file, or a folder of files.
        root: Folder that paths of images may start from, besides that of the table.
        limits: Larger images are refused.

    Raises:
        DataError: If it cannot be read.
    """

    def __init__(self, path: Path, root: Path, limits: ImageLimits = COMMAND_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self.table = Table(find_tables(Path(), str(path)), None, default_cache())
        images = [name for name in self.table.columns if self._holds_images(name)]
        self.images = {
            name: ImageColumn(self.table, name, root, limits.max_bytes) for name in images
        }
        self.texts = [name for name in self.table.columns if self._holds_texts(name)]

    def inspect(self, check: bool = False) -> Inspection:
        """Inspect the table.

        Args:
            check: Whether to decode every image.
        """
        words = [self._num_words(row) for row in range(len(self.table))] if self.texts else []
        counts = [sum(n > 0 for n in row) for row in words]
        lengths = [n for row in words for n in row if n > 0]
        formats, sizes, faults = self._inspect_images(check)
        num_shown = min(NUM_SAMPLES, len(self.table))
        return Inspection(
            path=self.path,
            schema={name: self._described_type(name) for name in self.table.columns},
            rows=len(self.table),
            texts_per_row=(min(counts), float(np.mean(counts)), max(counts))
            if counts
            else (0, 0.0, 0),
            text_lengths=tuple(np.quantile(lengths, QUANTILES).tolist()) if lengths else (),
            formats=dict(formats.most_common()),
            widths=range_of([width for width, _ in sizes]),
            heights=range_of([height for _, height in sizes]),
            num_images=len(sizes),
            lost_areas=lost_areas(sizes),
            samples=tuple(self._described(row) for row in range(num_shown)),
            faults=tuple(faults),
        )

    def contact_sheet(self) -> Image.Image:
        """Draw rows spread evenly over the table, with their other columns.

        Raises:
            DataError: If an image cannot be read.
        """
        rows = rows_to_draw(len(self.table))
        return draw_sheet(
            [(self.table.where(row), self._lines(row), self._cell(row)) for row in rows]
        )

    def _holds_images(self, name: str) -> bool:
        kind = self.table.schemas[0].field(name).type
        if not is_text(kind):
            fields = {field.name for field in kind} if pa.types.is_struct(kind) else set()
            return bool(is_binary(kind) or fields & {"bytes", "offset"})
        values = self._first(name)
        paths = [
            v for v in values if isinstance(v, str) and PurePosixPath(v).suffix.lower() in SUFFIXES
        ]
        return bool(values) and (name in IMAGE_COLUMNS or len(paths) == len(values))

    def _holds_texts(self, name: str) -> bool:
        if name in self.images:
            return False
        values = self._first(name)
        are_texts = bool(values) and all(isinstance(value, str) for value in values)
        return are_texts and (name in TEXT_COLUMNS or any(" " in value for value in values))

    def _first(self, name: str) -> list[Any]:
        rows = range(min(NUM_GUESSED, len(self.table)))
        return [value for row in rows if (value := self.table.value(name, row)) is not None]

    def _num_words(self, row: int) -> list[int]:
        return [len(str(self.table.value(name, row) or "").split()) for name in self.texts]

    def _inspect_images(self, check: bool) -> tuple[Counter[str], list[tuple[int, int]], list[str]]:
        formats: Counter[str] = Counter()
        sizes, faults = [], []
        for row in rows_to_inspect(len(self.table), check):
            for name, column in self.images.items():
                try:
                    data, _ = column.read(row)
                    image = open_image(data, self.table.source(row))
                except DataError as error:
                    faults.append(f"{self.path}: {error}")
                    continue
                fault = decode_fault(data, self.limits) if check else None
                if fault is not None:
                    faults.append(f"{self.path}: {self.table.where(row)}: {name}: {fault}")
                    continue
                formats[f"{image.format} {image.mode}"] += 1
                sizes.append(image.size)
        return formats, sizes, faults

    def _described_type(self, name: str) -> str:
        what = "image: " if name in self.images else ""
        number = self.table.number_type(name)
        kind = str(self.table.schemas[0].field(name).type)
        if number is not None:
            kind = f"text of numbers ({number.__name__})"
        return what + ("JSON" if self.table.is_json(name) else kind)

    def _described(self, row: int) -> dict[str, str]:
        return {name: _described(self.table.value(name, row)) for name in self.table.columns}

    def _lines(self, row: int) -> list[str]:
        others = [name for name in self.table.columns if name not in (*self.images, *self.texts)]
        texts = [str(self.table.value(name, row)) for name in self.texts]
        return [*texts, *(f"{name}: {quoted(self.table.value(name, row))}" for name in others)]

    def _cell(self, row: int) -> Image.Image:
        """Return the images of a row side by side."""
        cell = Image.new("RGB", (CELL, CELL), "#f0f0f0")
        width = CELL // max(1, len(self.images))
        for index, column in enumerate(self.images.values()):
            source = self.table.source(row)
            image = open_image(column.read(row)[0], source)
            picture = upright(image, decoded(image, self.limits, source, to_rgb))
            picture.thumbnail((width - 2 * (len(self.images) > 1), CELL))
            left = index * width + (width - picture.width) // 2
            cell.paste(picture, (left, (CELL - picture.height) // 2))
        return cell


def _is_image_path(value: object) -> bool:
    return isinstance(value, str) and PurePosixPath(value).suffix.lower() in SUFFIXES


def is_prepared(path: Path) -> bool:
    """Return whether a file is an Arrow file with the columns that preparation writes."""
    if path.suffix.lower() != ".arrow":
        return False
    try:
        with pa.memory_map(str(path)) as mapped:
            try:
                names: Sequence[str] = pa.ipc.open_file(mapped).schema.names
            except pa.ArrowInvalid:
                mapped.seek(0)
                names = pa.ipc.open_stream(mapped).schema.names
    # Opening it will say what is wrong with it.
    except (OSError, pa.ArrowException):
        return True
    return not {*IMAGE_COLUMNS, *TEXT_COLUMNS}.isdisjoint(names)


def _described(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes, sha256 {hashlib.sha256(value).hexdigest()[:8]}..."
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_described(inner)}" for name, inner in value.items())
    return shortened(str(value).replace("\n", "\\n"))
