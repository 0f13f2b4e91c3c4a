"""A plugin with a hook that does not exist."""

from collections.abc import Callable

from renaissance import hookimpl


@hookimpl
def register_encodres(register: Callable[..., None]) -> None:
    """Never called."""
