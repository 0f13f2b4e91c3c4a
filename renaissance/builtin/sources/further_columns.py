"""Columns of a captions file beside image, captions and split: kept, or refused by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from renaissance import DataError
from renaissance.prepare import CAPTION_SCHEMA

KINDS: dict[type, Any] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}
REMEDY = (
    "Leave the column out with --drop {name}, or use the dataset `table`, which reads the file as "
    "it is"
)


class FurtherColumns:
    """Collects the values of further columns, and from them the schema.

    Args:
        dropped: Columns to leave out.
    """

    def __init__(self, dropped: Sequence[str]) -> None:
        self._dropped = frozenset(dropped)
        self._kinds: dict[str, Any] = {}

    def of_image(
        self, lines: Sequence[tuple[str, Mapping[str, Any]]], known: Sequence[str]
    ) -> dict[str, Any]:
        """Return the values of an image, which must be the same in all of its lines.

        Args:
            lines: The lines of the image, each with where it is.
            known: Columns that are not further ones.

        Raises:
            DataError: If lines differ, or a value cannot be written.
        """
        where, first = lines[0]
        names = [name for name in first if name not in (*known, *self._dropped)]
        taken = next((name for name in names if name in CAPTION_SCHEMA.names), None)
        if taken is not None:
            raise DataError(
                f"{where}: {taken!r} has the name of a column that is written for every image; "
                f"expected another name. {REMEDY.format(name=taken)}"
            )
        for other, line in lines[1:]:
            for name in names:
                if line.get(name) != first[name]:
                    raise DataError(
                        f"{other}: column {name!r} is {line.get(name)!r}, but {first[name]!r} for "
                        "another caption of the same image; expected one value per image. "
                        + REMEDY.format(name=name)
                    )
        return {name: self._value(where, name, first[name]) for name in names}

    def schema(self) -> Any:
        """Return the pyarrow schema of all columns so far."""
        kinds = {n: pa.string() if k == pa.null() else k for n, k in self._kinds.items()}
        return pa.schema([*CAPTION_SCHEMA, *kinds.items()])

    def _value(self, where: str, name: str, value: Any) -> Any:
        is_list = isinstance(value, list)
        kinds = {KINDS.get(type(item)) for item in (value if is_list else [value])}
        if value is None or value == []:
            self._kinds.setdefault(name, pa.null())
            return None
        kind = kinds.pop()
        if kind is None or kinds:
            raise DataError(
                f"{where}: column {name!r} is {type(value).__name__}; expected text, a number, "
                f"true or false, or a list of these. {REMEDY.format(name=name)}"
            )
        kind = pa.list_(kind) if is_list else kind
        before = self._kinds.get(name, pa.null())
        if {before, kind} == {pa.int64(), pa.float64()}:
            kind = pa.float64()
        elif before not in (kind, pa.null()):
            raise DataError(
                f"{where}: column {name!r} is {value!r}, {kind}, but {before} in the lines before; "
                f"expected one type. {REMEDY.format(name=name)}"
            )
        self._kinds[name] = kind
        return value
