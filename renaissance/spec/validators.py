"""Limits of single keys of the run spec, beyond those that every component may use."""

import re
from typing import Protocol

import attrs
from attrs import AttrsInstance

from renaissance.errors import quoted
from renaissance.options import Field, Validator, non_negative, positive

# What file systems allow.
MAX_NAME_BYTES = 255


class HasInitFrom(Protocol):
    """The part of `[model]` that `needs_init_from` reads."""

    init_from: str | None


def folder_name(instance: object, attribute: Field, value: str) -> None:
    """Validator: the name of one folder."""
    if not value.strip(". ") or set(value) & set("/\\\0"):
        raise ValueError(f"got {quoted(value)}, expected the name of a folder, without slashes")
    num_bytes = len(value.encode(errors="replace"))
    if num_bytes > MAX_NAME_BYTES:
        raise ValueError(
            f"got a name of {num_bytes:,} bytes, expected at most {MAX_NAME_BYTES}, the longest "
            "that file systems allow"
        )


def steps_or_fraction(instance: object, attribute: Field, value: int | float) -> None:
    """Validator: an integer, or a number below 1."""
    if isinstance(value, float) and value >= 1:
        raise ValueError(
            f"got {value}, expected a number of steps (an integer, such as {quoted(round(value))}) "
            "or a fraction of all steps below 1"
        )


def non_negative_or_auto(instance: object, attribute: Field, value: int | str) -> None:
    """Validator: "auto", or a number of at least zero."""
    if not isinstance(value, str):
        non_negative(instance, attribute, value)


def above_zero(instance: object, attribute: Field, value: tuple[float, ...] | None) -> None:
    """Validator: numbers above zero."""
    for number in value or ():
        positive(instance, attribute, number)


def up_to(most: int) -> Validator:
    """Return a validator: an integer above zero, at most `most`."""

    def validate(instance: object, attribute: Field, value: int) -> None:
        if not 0 < value <= most:
            raise ValueError(f"got {quoted(value)}, expected a number above 0, at most {most:,}")

    return validate


def up_to_one(instance: object, attribute: Field, value: float) -> None:
    """Validator: a number above zero, at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"got {quoted(value)}, expected a number above 0, at most 1")


def frozen_part(instance: object, attribute: Field, value: bool | str) -> None:
    """Validator: true, false, or "all but N"."""
    if isinstance(value, str) and not re.fullmatch(r"all but [1-9]\d{0,3}", value):
        raise ValueError(f'got {quoted(value)}, expected true, false, or a text like "all but 2"')


def not_empty(instance: object, attribute: Field, value: tuple[str, ...] | None) -> None:
    """Validator: absent, or a list with entries."""
    if value == ():
        raise ValueError("got an empty list; name at least one, or leave the key out for all")


def not_all_zero(instance: object, attribute: Field, value: AttrsInstance) -> None:
    """Validator: a table of numbers of which at least one is above zero."""
    if not any(attrs.asdict(value).values()):
        raise ValueError("every factor is 0, so nothing would be trained; set one above 0")


def log_name(instance: object, attribute: Field, value: str | None) -> None:
    """Validator: a name that can be part of the names of metrics and of parameters."""
    # PyTorch forbids dots in names of modules, and slashes separate the parts of a metric's name.
    if value is not None and not re.fullmatch(r"[\w+-]+", value):
        raise ValueError(f"got {quoted(value)}, expected letters, digits, '-', '_' and '+' only")


def needs_init_from(instance: HasInitFrom, attribute: Field, value: tuple[str, ...]) -> None:
    """Validator: a key that has no effect without `init_from`, and must then be empty."""
    if value and instance.init_from is None:
        raise ValueError(
            "allows what model.init_from would refuse, but there is no model.init_from; set it, "
            "or remove this key"
        )
