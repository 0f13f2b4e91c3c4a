"""Keys of the run spec whose default depends on other keys."""

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from renaissance.options import Validator

Derive: TypeAlias = Callable[[Any], object]


def derived(
    derive: Derive,
    *,
    help: str,
    default_text: str,
    validator: Validator | None = None,
) -> Any:
    """Declare a key whose default depends on other keys.

    Args:
        derive: Returns the default as a user would write it, or None for no value. It is given the
            section as read so far or, for a key of a choice, the registration of the component.
        help: One sentence for the generated documentation.
        default_text: What the documentation shows as the default.
        validator: As in `option`.

    Returns:
        An attrs field.
    """
    return attrs.field(
        default=None,
        validator=validator,
        metadata={"help": help, "derive": derive, "default_text": default_text},
    )
