"""Labels as tables hold them: as names of classes, or as numbers."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from renaissance.errors import quoted


def class_names(value: object, separator: str | None = None) -> tuple[str, ...]:
    """Return the classes that a label names: one for a text or a number, any number for a list.

    A number is the class of its digits: 3, 3.0 and "3" are the same class, since some formats turn
    integers into floats.

    Args:
        value: The label of one sample.
        separator: What separates classes in a text. An empty text, or a missing value, then names
            no class.

    Raises:
        ValueError: If it is missing, or cannot name a class; the message says what it is.
    """
    if is_list(value):
        return tuple(dict.fromkeys(_class_name(entry) for entry in value))
    if separator is None:
        return (_class_name(value),)
    if value is None:
        return ()
    parts = (part.strip() for part in _class_name(value, empty_is_missing=False).split(separator))
    return tuple(dict.fromkeys(part for part in parts if part))


def is_list(value: object) -> TypeGuard[Iterable[object]]:
    """Return whether a label is a list of values."""
    return isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)


def number(value: object) -> float:
    """Return a label that is a number, or a text of one.

    Raises:
        ValueError: If it is missing, or is not a finite number; the message says what it is.
    """
    if is_missing(value):
        raise ValueError(f"is missing ({quoted(value)})")
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"is {quoted(value)}, expected a number") from None
    if isinstance(value, bool) or not math.isfinite(result):
        raise ValueError(f"is {quoted(value)}, expected a finite number")
    return result


def is_missing(value: object) -> bool:
    """Return whether a value is None, NaN or a text without any character but spaces."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of classes in order: as integers if all are, otherwise as texts."""
    distinct = set(names)
    if all(name.removeprefix("-").isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def _class_name(value: object, empty_is_missing: bool = True) -> str:
    if is_missing(value) and (empty_is_missing or not isinstance(value, str)):
        raise ValueError(f"is missing ({quoted(value)})")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        raise ValueError(
            f"is {quoted(value)}, expected a class, a text or an integer (numbers are the labels "
            "of 'regression')"
        )
    if not isinstance(value, str | int):
        raise ValueError(f"is {quoted(value)}, expected a class, a text or an integer")
    return str(value).strip()
