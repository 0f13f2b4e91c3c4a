"""Single values of a spec, taken strictly: see `structure`."""

import contextlib
import math
from pathlib import Path
from typing import Any, TypeVar, get_args

from renaissance.errors import did_you_mean, quoted
from renaissance.files import with_home
from renaissance.spec.describe import Annotation, describe_literal, describe_type, describe_value

T = TypeVar("T")

# Of values of any type: writing deeper ones would exceed Python's recursion limit.
MAX_DEPTH = 50


def structure_exactly(value: object, expected: type) -> Any:
    """Return a value of exactly a type."""
    if type(value) is not expected:
        raise mismatch(value, expected)
    return value


def structure_string(value: object, expected: Annotation) -> str:
    """Return a string; `~` at its start is the home folder."""
    # Here, so that the options of every component may name files in the home folder.
    return with_home(_without_nul(require(str, value, expected)))


def structure_integer(value: object, expected: Annotation) -> int:
    """Return an integer of at most 64 bits."""
    if type(value) is not int:
        raise mismatch(value, expected)
    # TOML's own limit. Larger ones cannot be printed, divided or turned into tensors.
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"got {quoted(value)}, expected an integer of at most 64 bits")
    return value


def structure_number(value: object, expected: Annotation) -> float:
    """Return a finite number as a float."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An integer may be too large for a float.
        with contextlib.suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
    if isinstance(value, float):
        raise ValueError(f"got {describe_literal(value)}, expected a finite number")
    raise mismatch(value, expected)


def structure_any(value: object, expected: Annotation, depth: int = 0) -> Any:
    """Return a value of any type that spec.toml, and JSON, can hold: it reads back equal."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _without_nul(value)
    if isinstance(value, int):
        return structure_integer(value, expected)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | dict) and depth == MAX_DEPTH:
        raise ValueError(f"got more than {MAX_DEPTH} levels of lists and tables, expected fewer")
    if isinstance(value, list):
        return [structure_any(entry, expected, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {key: structure_any(entry, expected, depth + 1) for key, entry in value.items()}
    raise ValueError(
        f"got {describe_value(value)}, expected a boolean, a finite number, a string, a list or a "
        "table"
    )


def structure_path(value: object, expected: Annotation) -> Path:
    """Return a path; `~` at its start is the home folder."""
    return Path(structure_string(value, expected))


def structure_literal(value: object, literal: Annotation) -> Any:
    """Return a value that is one of those of a Literal."""
    for allowed in get_args(literal):
        if type(value) is type(allowed) and value == allowed:
            return value
    hint = did_you_mean(value, [str(allowed) for allowed in get_args(literal)])
    raise ValueError(f"got {describe_literal(value)}, expected {describe_type(literal)}{hint}")


def _without_nul(text: str) -> str:
    """Return a text that may become part of a path; none of the system's calls takes NUL."""
    if "\0" in text:
        raise ValueError(f"got {quoted(text)}, expected a text without NUL characters")
    return text


def require(expected: type[T], value: object, annotation: Annotation) -> T:
    """Return a value of a type, which the annotation describes in the message."""
    if not isinstance(value, expected):
        raise mismatch(value, annotation)
    return value


def mismatch(value: object, annotation: Annotation) -> ValueError:
    """Return the error for a value of another type, with a hint where there is one."""
    text = f"got {describe_value(value)}, expected {describe_type(annotation)}"
    if annotation is bool:
        text += ": true or false"
    elif isinstance(value, dict) and describe_type(annotation) == "array of tables":
        text += ": write its header in double brackets, [[...]]"
    elif annotation is str and isinstance(value, (int, float)):
        text += f': put it in quotes, "{describe_literal(value)}"'
    return ValueError(text)
