"""The base of datasets that read tables with images, texts and labels in columns of any name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from renaissance import DataError, Dataset, DatasetContext, Sample
from renaissance.data.open_image import open_image
from renaissance.data.tables.cache import default_cache, say
from renaissance.data.tables.division import TableSplit, rows_of_side, rows_of_value
from renaissance.data.tables.files import find_tables
from renaissance.data.tables.pictures import ImageColumn
from renaissance.data.tables.table import Table
from renaissance.errors import quoted
from renaissance.limits import reading_within

IMAGE = re.compile(r"image(_[0-9]+)?")
TEXTS = ("text", "text_pair")


class TableRows(Dataset):
    """One sample per row of a table.

    Args:
        arguments: Arguments of the subclass, for loader processes that make the dataset again.
        context: What the dataset may need to know about the run.
        files: Paths, patterns, folders or addresses of tables.
        columns: Name of the column of each part of a sample: "image", "image_2" and so on, "text"
            and "text_pair"; every other key is a label of that name. "id" is a label that must be
            different in each row.
        split: Which rows to read; None for all.
        on_empty: What to do about empty texts and images: "error" refuses the table, "skip" leaves
            out their rows, "keep" makes reading their rows an error.
        cache: Folder for files that are made from others; None for the default.

    Raises:
        DataError: If a file cannot be read, a column is missing, a cell is empty, an id is
            repeated, or no row is left.
    """

    def __init__(
        self,
        arguments: tuple[object, ...],
        context: DatasetContext,
        files: str | Sequence[str],
        columns: Mapping[str, str],
        split: TableSplit | None = None,
        on_empty: Literal["error", "skip", "keep"] = "error",
        cache: str | None = None,
    ) -> None:
        self._arguments = arguments
        self._columns = dict(columns)
        self._cache = default_cache() if cache is None else context.root / cache
        found = find_tables(context.root, files)
        further = _columns_of_split(split, columns)
        with reading_within(context.limits):
            self._table = Table(found, [*columns.values(), *further], self._cache)
        self._name = found[0].path if len(found) == 1 else f"{found[0].path} and others"
        images = sorted(key for key in columns if IMAGE.fullmatch(key))
        self._images = {
            key: ImageColumn(self._table, columns[key], context.root, context.max_image_bytes)
            for key in images
        }
        self._labels = [key for key in columns if key not in (*images, *TEXTS)]
        numbers = {key: self._table.number_type(columns[key]) for key in self._labels}
        self._numbers = {key: kind for key, kind in numbers.items() if kind is not None}
        self.provides = frozenset(
            {*("image" for _ in images[:1]), *(key for key in columns if key not in images)}
        )
        with reading_within(context.limits):
            self._rows = self._chosen(split, context, on_empty)
        if "id" in columns:
            self._check_ids()

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[type["TableRows"], tuple[object, ...]]:
        # A loader process that does not inherit memory opens the files again.
        return type(self), self._arguments

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return the sample of one row.

        Raises:
            DataError: If an image or text cannot be read.
            IndexError: If the sample does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample: got {index}, expected 0 <= sample < {len(self)}")
        row = int(self._rows[index])
        source = self._table.source(row)
        read = [column.read(row) for column in self._images.values()]
        texts = {key: self._text(key, row) for key in TEXTS if key in self._columns}
        return Sample(
            **texts,
            images=tuple(open_image(data, source) for data, _ in read),
            image_ids=tuple(identifier for _, identifier in read),
            labels={key: self._label(key, self._value(key, row)) for key in self._labels},
            source=source,
        )

    def label_values(self, name: str) -> Iterable[object]:
        """Yield every sample's value of a label, in order; no image is read.

        Args:
            name: The label.

        Raises:
            DataError: If there is no such label.
        """
        if name not in self._labels:
            known = ", ".join(self._labels) or "none"
            raise DataError(
                f"{self._name}: no label {name!r}; it has {known}. Name its column in columns"
            )
        is_chosen = np.zeros(len(self._table), np.bool_)
        is_chosen[self._rows] = True
        for value in compress(self._table.values(self._columns[name]), is_chosen):
            yield self._label(name, value)

    def _value(self, key: str, row: int) -> Any:
        return self._table.value(self._columns[key], row)

    def _text(self, key: str, row: int) -> str:
        text = self._value(key, row)
        if not isinstance(text, str):
            raise DataError(
                f"{self._table.source(row)}: column {self._columns[key]!r} ({key}) is "
                f"{quoted(text)}; expected one text. Write one row per text, as text"
            )
        return text

    def _label(self, key: str, value: Any) -> Any:
        kind = self._numbers.get(key)
        return value if kind is None or not isinstance(value, str) else kind(value)

    def _chosen(
        self, split: TableSplit | None, context: DatasetContext, on_empty: str
    ) -> NDArray[np.int64]:
        """Return the rows of the split whose texts and images are not empty."""
        is_chosen = np.ones(len(self._table), np.bool_)
        if split is not None and split.column is not None:
            is_chosen &= rows_of_value(self._table.values(split.column), split, self._name)
        elif split is not None and split.hold_out is not None:
            side = split.side or ("train" if context.training else "held-out")
            is_chosen &= rows_of_side(self._keys(split.by), split.hold_out, side == "held-out")
        if on_empty != "keep":
            is_chosen &= ~self._empty(is_chosen, on_empty)
        rows = np.flatnonzero(is_chosen)
        if not len(rows):
            raise DataError(
                f"{self._name}: none of its {len(self._table):,} rows is left; expected at least "
                "one. Check split and on_empty"
            )
        return rows

    def _keys(self, by: str) -> list[str]:
        if by in self._images:
            return list(self._images[by].keys(self._cache))
        return [str(value) for value in self._table.values(self._columns.get(by, by))]

    def _empty(self, is_chosen: NDArray[np.bool_], on_empty: str) -> NDArray[np.bool_]:
        """Return which of the chosen rows have an empty text or image."""
        has_empty = np.zeros(len(self._table), np.bool_)
        counts = {}
        for key in [*self._images, *(key for key in TEXTS if key in self._columns)]:
            column = self._columns[key]
            if key in TEXTS:
                self._table.check_texts(column)
            is_empty = self._table.empty(column) & is_chosen
            has_empty |= is_empty
            if is_empty.any():
                counts[f"{column!r} ({key})"] = int(is_empty.sum())
        if counts:
            first = self._table.source(int(np.flatnonzero(has_empty)[0]))
            shown = ", ".join(f"{count:,} in column {name}" for name, count in counts.items())
            if on_empty == "error":
                raise DataError(
                    f"{self._name}: empty cells: {shown}, the first in {first}; expected a text "
                    'or image in each. Complete them, or leave out these rows: on_empty = "skip"'
                )
            say(
                f"table: {self._name}: {has_empty.sum():,} of {is_chosen.sum():,} rows left out "
                f"for empty cells: {shown}, the first in {first}"
            )
        return has_empty

    def _check_ids(self) -> None:
        seen: dict[object, int] = {}
        for row, value in zip(self._rows, self.label_values("id"), strict=True):
            if value is None or str(value) in seen:
                where = self._table.source(int(row))
                what = "is empty" if value is None else (
                    f"is {quoted(value)}, as in {self._table.source(seen[str(value)])}"
                )  # fmt: skip
                raise DataError(
                    f"{where}: column {self._columns['id']!r} (id) {what}; expected a different "
                    "identifier in each row. Correct it, or use the column as a label of another "
                    "name"
                )
            seen[str(value)] = int(row)


def _columns_of_split(split: TableSplit | None, columns: Mapping[str, str]) -> list[str]:
    """Return the further columns that are needed to find the rows of a split."""
    if split is None:
        return []
    if split.column is not None:
        return [split.column]
    if split.by in columns:
        return []
    if IMAGE.fullmatch(split.by):
        raise DataError(
            f"table: split.by = {split.by!r}, but columns has no {split.by!r}; it has "
            f"{', '.join(columns)}. Set by to one of these, or to a column of the table"
        )
    return [split.by]
