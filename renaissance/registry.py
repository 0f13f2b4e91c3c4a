"""From (kind, name) to a component class."""

import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any, ClassVar, get_origin

import attrs

from renaissance.contracts import KINDS, Component, Kind
from renaissance.errors import PluginError

# What a component of each kind is made with.
MADE_WITH: dict[Kind, tuple[str, ...]] = {
    "encoder": ("options", "context"),
    "pooler": ("options", "hidden_size"),
    "fusion": ("options",),
    "objective": ("options", "context"),
    "dataset": ("options", "context"),
    "head": ("options", "input_size", "output_size"),
}


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
        self._clashes: dict[tuple[Kind, str], tuple[Registration, ...]] = {}

    def add(self, registration: Registration) -> None:
        """Add a component.

        A name that is registered twice is nobody's: which of them a run would get must not
        depend on an order.

        Raises:
            PluginError: If the name is ill-formed, or the class breaks its contract.
        """
        check_component(registration)
        key = (registration.kind, registration.name)
        others = self._clashes.get(key) or tuple(filter(None, [self._registrations.pop(key, None)]))
        if others:
            self._clashes[key] = (*others, registration)
        else:
            self._registrations[key] = registration

    def clashes(self) -> list[str]:
        """Say which names are registered twice, and by which distributions."""
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
        """Say that a name is unknown, which are known, and which was perhaps meant."""
        if isinstance(name, str) and (kind, name) in self._clashes:
            return self._clash(kind, name)
        known = self.names(kind)
        text = f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}"
        near = difflib.get_close_matches(str(name), known, n=1)
        return f"{text}; did you mean {near[0]!r}?" if near else text

    def __iter__(self) -> Iterator[Registration]:
        order = list(KINDS)
        return iter(
            sorted(self._registrations.values(), key=lambda r: (order.index(r.kind), r.name))
        )


def require_kind(kind: str) -> Kind:
    """Return a kind by its name.

    Raises:
        PluginError: If there is no such kind.
    """
    for known in KINDS:
        if kind == known:
            return known
    near = difflib.get_close_matches(kind, KINDS, n=1)
    meant = f"; did you mean '{near[0]}'?" if near else ""
    raise PluginError(f"unknown kind '{kind}'; known: {', '.join(KINDS)}{meant}")


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
    silent = [field.name for field in attrs.fields(options) if not field.metadata.get("help")]
    if silent:
        raise PluginError(
            f"{where}: {component.__name__}.Options: no help for {', '.join(silent)}; declare "
            f"each as `{silent[0]}: ... = option(default, help='What it does.')`"
        )
    _check_signatures(component, kind, where)


def _check_signatures(component: type[Component], kind: Kind, where: str) -> None:
    """Check that a class can be made, and its methods called, with the contract's arguments."""
    expected = {"__init__": MADE_WITH[kind]}
    for name, function in vars(KINDS[kind]).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            expected[name] = tuple(inspect.signature(function).parameters)[1:]
    for name, arguments in expected.items():
        function = getattr(component, name)
        given = inspect.signature(function)
        try:
            given.bind(None, *arguments)
        except TypeError as error:
            raise PluginError(
                f"{where}: {component.__name__}.{name}{given} does not take the arguments that it "
                f"is given; write `def {name}({', '.join(('self', *arguments))})`"
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
