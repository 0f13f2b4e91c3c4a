"""The base of all components."""

from typing import Any, ClassVar


class Component:
    """A class whose nested `Options` declares what TOML can set."""

    Options: ClassVar[type[Any]]
