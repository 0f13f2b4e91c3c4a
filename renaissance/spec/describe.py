"""Types and values in TOML's terms, for messages and documentation."""

import collections.abc
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

import attrs

from renaissance.errors import quoted, shortened

# A type as attrs resolves it: a class, a union, a Literal, a generic. Python has no type for these.
Annotation: TypeAlias = object
Field: TypeAlias = "attrs.Attribute[Any]"
Table: TypeAlias = Mapping[str, Any]

NAMES: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Path: "string (a path)",
    Any: "any value",
}


def is_union(annotation: Annotation) -> bool:
    """Return whether a type is `X | Y` or `Optional[X]`."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_literal(annotation: Annotation) -> bool:
    """Return whether a type is `Literal[...]`."""
    return get_origin(annotation) is Literal


def is_sequence(annotation: Annotation) -> bool:
    """Return whether a type is `tuple[...]`, `list[...]` or `Sequence[...]`."""
    return get_origin(annotation) in (tuple, list, collections.abc.Sequence)


def is_mapping(annotation: Annotation) -> bool:
    """Return whether a type is `dict` or `Mapping`, with or without type arguments."""
    mappings = (dict, collections.abc.Mapping)
    return annotation in mappings or get_origin(annotation) in mappings


def alternatives(annotation: Annotation) -> tuple[Annotation, ...]:
    """Return the members of a union without None: in TOML, the key is left out instead."""
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    return tuple(member for member in members if member is not types.NoneType)


def table_class(annotation: Annotation) -> type[Any] | None:
    """Return the class of a table or array of tables: `X`, `X | None`, `tuple[X, ...]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and attrs.has(candidate):
            return candidate
    return None


def describe_type(annotation: Annotation) -> str:
    """Return what to write in TOML for a type: "integer", "list of strings", '"a" | "b"'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in NAMES:
        return NAMES[annotation]
    if is_union(annotation):
        return " or ".join(describe_type(member) for member in alternatives(annotation))
    if is_literal(annotation):
        return " | ".join(json.dumps(value) for value in arguments)
    if is_sequence(annotation):
        return _describe_sequence(origin, arguments)
    if isinstance(annotation, type) and attrs.has(annotation):
        return "table"
    if is_mapping(annotation):
        values = arguments[1] if arguments else Any
        return "table" if values is Any else f"table of {_plural(values)}"
    return str(annotation)


def _describe_sequence(origin: Annotation, arguments: tuple[Annotation, ...]) -> str:
    if origin is tuple and arguments[-1] is not Ellipsis:
        kinds = dict.fromkeys(map(_plural, arguments))
        return f"list of {len(arguments)} {' and '.join(kinds)}"
    if isinstance(arguments[0], type) and attrs.has(arguments[0]):
        return "array of tables"
    return f"list of {_plural(arguments[0])}"


def _plural(annotation: Annotation) -> str:
    text = describe_type(annotation)
    return f"{text}s" if text in ("boolean", "integer", "number", "string", "table") else text


def describe_value(value: object) -> str:
    """Return how a message shows a value: `3.7 (number)`, `"false" (string)`, `a table`."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if type(value) in NAMES:
        return f"{describe_literal(value)} ({NAMES[type(value)]})"
    return f"{shortened(str(value))} ({type(value).__name__})"


def describe_literal(value: object) -> str:
    """Return a plain value as it is written in TOML, in at most 80 characters."""
    if isinstance(value, float):
        return repr(value)
    try:
        return shortened(json.dumps(value, ensure_ascii=False, default=str))
    # An integer has too many digits to print.
    except ValueError:
        return quoted(value)


def describe_field(field: Field) -> str:
    """Return a field's type with its help: "string: Folder that ..."."""
    help = field.metadata.get("help")
    return f"{describe_type(field.type)}: {help}" if help else describe_type(field.type)


def default_of(field: Field) -> Any:
    """Return a field's default (a new one if a factory makes it), or `attrs.NOTHING`."""
    default = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore
