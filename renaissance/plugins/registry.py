"""Looks up component classes by kind and name."""

from collections.abc import Iterator

import attrs

from renaissance.contracts.component import Component
from renaissance.errors import did_you_mean, quoted
from renaissance.plugins.kinds import KINDS, Kind


@attrs.frozen
class Registration:
    """One registered component.

    Attributes:
        kind: Which kind of component.
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
        self._clashes: dict[tuple[Kind, str], tuple[Registration, ...]] = {}

    def add(self, registration: Registration) -> None:
        """Add a component.

        A name registered twice resolves to neither component, so that no run depends on load
        order. The caller has checked the component (`plugins.contract.check_component`).
        """
        key = (registration.kind, registration.name)
        others = self._clashes.get(key) or tuple(filter(None, [self._registrations.pop(key, None)]))
        if others:
            self._clashes[key] = (*others, registration)
        else:
            self._registrations[key] = registration

    def clashes(self) -> list[str]:
        """Return a message for each name that is registered twice."""
        return [self._clash(kind, name) for kind, name in sorted(self._clashes)]

    def _clash(self, kind: Kind, name: str) -> str:
        by = " and by ".join(f"{r.distribution} {r.version}" for r in self._clashes[kind, name])
        return (
            f"{kind} '{name}' is registered twice: by {by}; uninstall one or rename its component"
        )

    def names(self, kind: Kind) -> list[str]:
        """Return the registered names of a kind, sorted."""
        return sorted(name for k, name in self._registrations if k == kind)

    def find(self, kind: Kind, name: str) -> Registration | None:
        """Return a registration, or None."""
        return self._registrations.get((kind, name))

    def unknown(self, kind: Kind, name: object) -> str:
        """Return the message for an unknown name: the known ones, and the nearest one."""
        if isinstance(name, str) and (kind, name) in self._clashes:
            return self._clash(kind, name)
        known = self.names(kind)
        return (
            f"unknown {kind} {quoted(name)}; known: {', '.join(known) or 'none'}"
            f"{did_you_mean(name, known)}"
        )

    def __iter__(self) -> Iterator[Registration]:
        order = list(KINDS)
        return iter(
            sorted(self._registrations.values(), key=lambda r: (order.index(r.kind), r.name))
        )
