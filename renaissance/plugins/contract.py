"""What a class must declare to be a component of its kind, checked before it is registered."""

import inspect
import re
from typing import Any, ClassVar, get_origin

import attrs

from renaissance.contracts.component import Component
from renaissance.errors import PluginError
from renaissance.plugins.kinds import KINDS, Kind
from renaissance.plugins.registry import Registration


def check_component(registration: Registration) -> None:
    """Check a component against the contract of its kind.

    Raises:
        PluginError: If its name or its class does not fit.
    """
    kind, name, component = registration.kind, registration.name, registration.component
    where = f"{registration.distribution} {registration.version}: {kind} {name!r}"
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9]+([-+][a-z0-9]+)*\+?", name)):
        raise PluginError(f"{where}: names are kebab-case, such as 'my-{kind}'; rename it")
    contract = KINDS[kind].contract
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
    without_help = [field.name for field in attrs.fields(options) if not field.metadata.get("help")]
    if without_help:
        raise PluginError(
            f"{where}: {component.__name__}.Options: no help for {', '.join(without_help)}; "
            f"declare each as `{without_help[0]}: ... = option(default, help='What it does.')`"
        )
    taken = [field.name for field in attrs.fields(options) if field.name in _reserved(kind)]
    if taken:
        raise PluginError(
            f"{where}: its option '{taken[0]}' has the name of a key that every {kind} table has "
            f"({', '.join(_reserved(kind))}); rename the option"
        )
    _check_signatures(component, kind, where)


def minor_faults_of(registration: Registration) -> list[str]:
    """Return the faults of a component that do not prevent its use."""
    component = registration.component
    if (component.__doc__ or "").strip():
        return []
    return [
        f"{registration.distribution} {registration.version}: {registration.kind} "
        f"'{registration.name}': {component.__name__} has no docstring, which "
        "`renaissance plugins show` prints; say what it does in one line"
    ]


def _reserved(kind: Kind) -> tuple[str, ...]:
    return ("type", *KINDS[kind].shared_keys)


def _check_signatures(component: type[Component], kind: Kind, where: str) -> None:
    """Check that a class and its methods can be called with the contract's arguments."""
    expected = {"__init__": KINDS[kind].made_with}
    for name, function in vars(KINDS[kind].contract).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            expected[name] = tuple(inspect.signature(function).parameters)[1:]
    for name, arguments in expected.items():
        function = getattr(component, name)
        signature = inspect.signature(function)
        try:
            signature.bind(None, *arguments)
        except TypeError as error:
            raise PluginError(
                f"{where}: {component.__name__}.{name}{signature} does not take the arguments that "
                f"it is given; write `def {name}({', '.join(('self', *arguments))})`"
            ) from error


def _abstract_methods(component: type[Component]) -> frozenset[str]:
    methods: frozenset[str] = getattr(component, "__abstractmethods__", frozenset())
    return methods


def _absent_attributes(component: type[Component], contract: type[Component]) -> list[str]:
    """Return the class attributes that a contract only declares and the component lacks."""
    hints: dict[str, Any] = inspect.get_annotations(contract)
    declared = [name for name, hint in hints.items() if get_origin(hint) is ClassVar]
    return [name for name in declared if not hasattr(component, name)]


def _is_frozen(options: type) -> bool:
    # By trying, since older releases of attrs do not record it.
    try:
        setattr(object.__new__(options), "probe", None)  # noqa: B010
    except attrs.exceptions.FrozenInstanceError:
        return True
    except AttributeError:
        return False
    return False
