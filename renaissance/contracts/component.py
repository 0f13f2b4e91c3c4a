"""What all kinds of component have in common."""

from typing import Any, ClassVar


class Component:
    """Common to all kinds: a class whose nested `Options` says what can be set from TOML."""

    Options: ClassVar[type[Any]]
