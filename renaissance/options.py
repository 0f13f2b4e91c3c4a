"""Component options: frozen attrs classes whose fields carry their own help."""

from collections.abc import Callable
from typing import Any

import attrs


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    validator: Callable[[Any, Any, Any], None]
    | list[Callable[[Any, Any, Any], None]]
    | None = None,
) -> Any:
    """Declare one option of a component or one key of the run spec.

    The TOML key, its type, its default and its help all come from this one line.

    Args:
        default: Value where the key is absent; leave out for a required key.
        help: One sentence for `renaissance plugins show` and the generated documentation.
        factory: Makes the default, for defaults that are not immutable.
        validator: attrs validators; their ValueError text is what the user reads.

    Returns:
        An attrs field.
    """
    return attrs.field(
        default=attrs.Factory(factory) if factory is not None else default,
        validator=validator,
        metadata={"help": help},
    )


def positive(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validator: a number above zero."""
    if value is not None and value <= 0:
        raise ValueError(f"got {value}, expected a number above 0")


def non_negative(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validator: a number of at least zero."""
    if value is not None and value < 0:
        raise ValueError(f"got {value}, expected a number of at least 0")


def fraction(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validator: a number from 0 up to, but not including, 1."""
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"got {value}, expected 0 <= value < 1")
