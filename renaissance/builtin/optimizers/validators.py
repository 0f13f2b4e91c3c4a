"""Validators of options that several optimizers have."""

from typing import Any, TypeAlias

import attrs

from renaissance import fraction

Field: TypeAlias = "attrs.Attribute[Any]"


def fractions(instance: object, attribute: Field, value: tuple[float, ...]) -> None:
    """Validator: numbers from 0 up to, but not including, 1."""
    for number in value:
        fraction(instance, attribute, number)
