"""Limits of single keys of the run spec, beyond those that every component may use."""

import re
from typing import Any

import attrs


def folder_name(instance: Any, attribute: "attrs.Attribute[str]", value: str) -> None:
    """Validator: the name of one folder."""
    if not value.strip(". ") or set(value) & set("/\\\0"):
        raise ValueError(f"got {value!r}, expected the name of a folder, without slashes")


def at_most_30(instance: Any, attribute: "attrs.Attribute[int]", value: int) -> None:
    """Validator: a number of at most 30."""
    if value > 30:
        raise ValueError(f"got {value}, expected an integer from 0 to 30")


def steps_or_fraction(
    instance: Any, attribute: "attrs.Attribute[int | float]", value: int | float
) -> None:
    """Validator: an integer, or a number below 1."""
    if isinstance(value, float) and value >= 1:
        raise ValueError(
            f"got {value}, expected a number of steps (an integer, such as {value:.0f}) "
            "or a fraction of all steps below 1"
        )


def log_name(instance: Any, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    """Validator: a name that can be part of a metric's and of a parameter's."""
    # Modules are called so too, and PyTorch allows no dots; slashes separate metrics.
    if value is not None and not re.fullmatch(r"[\w+-]+", value):
        raise ValueError(f"got {value!r}, expected letters, digits, '-', '_' and '+' only")


def needs_init_from(
    instance: Any, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]
) -> None:
    """Validator: a choice about `init_from`, empty without it."""
    if value and instance.init_from is None:
        raise ValueError(
            "allows what model.init_from would refuse, but there is no model.init_from; set it, "
            "or remove this key"
        )
