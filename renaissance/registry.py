"""From (kind, name) to a component class."""

import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any, ClassVar, get_origin

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
        check_component(registration)
        new = registration
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

    def unknown(self, kind: Kind, name: object) -> str:
        """Say that a name is unknown, which are known, and which was perhaps meant."""
        known = self.names(kind)
        text = f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}"
        near = difflib.get_close_matches(str(name), known, n=1)
        return f"{text}; did you mean {near[0]!r}?" if near else text

    def __iter__(self) -> Iterator[Registration]:
        order = list(KINDS)
        return iter(
            sorted(self._registrations.values(), key=lambda r: (order.index(r.kind), r.name))
        )


def check_component(registration: Registration) -> None:
    """Check a component against the contract of its kind.

    Raises:
        PluginError: If its name or its class does not fit.
    """
    kind, name, component = registration.kind, registration.name, registration.component
    where = f"{registration.distribution} {registration.version}: {kind} {name!r}"
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9]+([-+][a-z0-9]+)*\+?", name)):
        raise PluginError(f"{where}: names are kebab-case, such as 'my-{kind}'; rename it")
    contract = KINDS[kind]
    if not (isinstance(component, type) and issubclass(component, contract)):
        raise PluginError(
            f"{where}: got {component!r}, expected a subclass of "
            f"renaissance.{contract.__name__}; derive the class from it"
        )
    absent = sorted([*_abstract_methods(component), *_absent_attributes(component, contract)])
    if absent:
        raise PluginError(
            f"{where}: {component.__name__} does not define {', '.join(absent)}, which every "
            f"{contract.__name__} has; see its docstring"
        )
    options = getattr(component, "Options", None)
    if not (isinstance(options, type) and attrs.has(options) and _is_frozen(options)):
        raise PluginError(
            f"{where}: {component.__name__}.Options is {options!r}, expected a nested "
            "class decorated with @attrs.frozen (empty if there is nothing to set)"
        )
    try:
        attrs.resolve_types(options)
    except NameError as error:
        raise PluginError(
            f"{where}: {component.__name__}.Options: a type cannot be resolved: {error}; "
            "import it outside of `if TYPE_CHECKING`"
        ) from error


def _abstract_methods(component: type[Component]) -> frozenset[str]:
    methods: frozenset[str] = getattr(component, "__abstractmethods__", frozenset())
    return methods


def _absent_attributes(component: type[Component], contract: type[Component]) -> list[str]:
    """Return the class attributes that a contract declares without a value, if still absent."""
    hints: dict[str, Any] = inspect.get_annotations(contract)
    declared = [name for name, hint in hints.items() if get_origin(hint) is ClassVar]
    return [name for name in declared if not hasattr(component, name)]


def _is_frozen(options: type[Any]) -> bool:
    # Asked of the class itself: attrs tells of it only in recent releases.
    try:
        setattr(object.__new__(options), "probe", None)  # noqa: B010
    except attrs.exceptions.FrozenInstanceError:
        return True
    except AttributeError:
        return False
    return False
