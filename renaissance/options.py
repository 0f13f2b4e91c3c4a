"""Component options: frozen attrs classes whose fields have help texts."""

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from renaissance.errors import quoted

Field: TypeAlias = "attrs.Attribute[Any]"
Validator: TypeAlias = Callable[[Any, Any, Any], None]


def option(
    default: object = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], object] | None = None,
    validator: Validator | list[Validator] | None = None,
) -> Any:
    """Declare one option of a component or one key of the run spec.

    The TOML key, its type, its default and its help all come from this one line.

    Args:
        default: Value if the key is absent; leave it out for a required key.
        help: One sentence for `renaissance plugins show` and the generated documentation.
        factory: Makes the default, for mutable defaults.
        validator: attrs validators; users see the text of their ValueError.

    Returns:
        An attrs field.
    """
    return attrs.field(
        default=attrs.Factory(factory) if factory is not None else default,
        validator=validator,
        metadata={"help": help},
    )


def positive(instance: object, attribute: Field, value: float | None) -> None:
    """Validator: a number above zero."""
    if value is not None and value <= 0:
        raise ValueError(f"got {quoted(value)}, expected a number above 0")


def non_negative(instance: object, attribute: Field, value: float | None) -> None:
    """Validator: a number of at least zero."""
    if value is not None and value < 0:
        raise ValueError(f"got {quoted(value)}, expected a number of at least 0")


def fraction(instance: object, attribute: Field, value: float | None) -> None:
    """Validator: a number from 0 up to, but not including, 1."""
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"got {quoted(value)}, expected 0 <= value < 1")
