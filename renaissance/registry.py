"""From (kind, name) to a component class."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import attrs

from renaissance.contracts import KINDS, Component, Kind
from renaissance.errors import PluginError


@attrs.frozen
class Registration:
    """One registered component.

    Attributes:
        kind: Which of the six kinds.
        name: The name that run specs use.
        component: Its class.
        distribution: The installed distribution it comes from.
        version: That distribution's version.
    """

    kind: Kind
    name: str
    component: type[Component]
    distribution: str
    version: str


class Registry:
    """All registered components, in sorted order."""

    def __init__(self) -> None:
        self._registrations: dict[tuple[Kind, str], Registration] = {}

    def add(self, registration: Registration) -> None:
        """Add a component.

        Raises:
            PluginError: If the name is taken or ill-formed, or the class breaks its contract.
        """
        new = registration
        where = f"{new.distribution} {new.version}: {new.kind} '{new.name}'"
        if not re.fullmatch(r"[a-z0-9]+([-+.][a-z0-9]+)*\+?", new.name):
            raise PluginError(f"{where}: names are kebab-case, such as 'my-{new.kind}'; rename it")
        contract = KINDS[new.kind]
        if not (isinstance(new.component, type) and issubclass(new.component, contract)):
            raise PluginError(
                f"{where}: got {new.component!r}, expected a subclass of "
                f"renaissance.{contract.__name__}; derive the class from it"
            )
        options = getattr(new.component, "Options", None)
        if options is None or not attrs.has(options) or not _is_frozen(options):
            raise PluginError(
                f"{where}: {new.component.__name__}.Options is {options!r}, expected a nested "
                "class decorated with @attrs.frozen (empty if there is nothing to set)"
            )
        old = self._registrations.get((new.kind, new.name))
        if old is not None:
            raise PluginError(
                f"{new.kind} '{new.name}' is registered twice: by {old.distribution} {old.version} "
                f"and by {new.distribution} {new.version}; uninstall one or rename its component"
            )
        self._registrations[new.kind, new.name] = new

    def names(self, kind: Kind) -> list[str]:
        """Return the registered names of a kind, sorted."""
        return sorted(name for k, name in self._registrations if k == kind)

    def find(self, kind: Kind, name: str) -> Registration | None:
        """Return a registration, or None."""
        return self._registrations.get((kind, name))

    def get(self, kind: Kind, name: str) -> Registration:
        """Return a registration.

        Raises:
            PluginError: If there is none; the message names the nearest one.
        """
        found = self.find(kind, name)
        if found is None:
            raise PluginError(self.unknown(kind, name))
        return found

    def unknown(self, kind: Kind, name: Any) -> str:
        """Say that a name is unknown, which are known, and which was perhaps meant."""
        known = self.names(kind)
        text = f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}"
        near = difflib.get_close_matches(str(name), known, n=1)
        return f"{text}; did you mean {near[0]!r}?" if near else text

    def __iter__(self) -> Iterator[Registration]:
        order = list(KINDS)
        key = lambda r: (order.index(r.kind), r.name)  # noqa: E731
        return iter(sorted(self._registrations.values(), key=key))


def _is_frozen(options: type[Any]) -> bool:
    # attrs marks frozen classes by the __setattr__ it generates.
    return getattr(options, "__setattr__", object.__setattr__) is not object.__setattr__
