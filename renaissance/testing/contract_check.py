"""Collects what is wrong with a component, and checks what every class must declare."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from renaissance.contracts.component import Component
from renaissance.errors import PluginError
from renaissance.plugins.contract import check_component, minor_faults_of
from renaissance.plugins.kinds import Kind
from renaissance.plugins.registry import Registration

C = TypeVar("C", bound=Component, covariant=True)


class ContractError(AssertionError):
    """Raised when a component breaks its contract; the message lists every violation."""


class ViolationError(Exception):
    """One violation of a contract."""


def require(is_kept: bool, text: str) -> None:
    """Raise a violation unless a promise is kept.

    Args:
        is_kept: Whether it is kept.
        text: What the component does, what the contract expects, and the remedy.
    """
    if not is_kept:
        raise ViolationError(text)


class ContractCheck(Generic[C]):
    """The check of one component.

    Args:
        kind: The kind of the component.
        component: Its class.

    Attributes:
        violations: The violations so far, each with its part of the contract.
    """

    def __init__(self, kind: Kind, component: type[C]) -> None:
        self.kind = kind
        self.component = component
        self.violations: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Check one part of the contract; a violation, or any exception, goes into the list."""
        try:
            yield
        except ViolationError as violation:
            self.violations.append(f"{name}: {violation}")
        # Any other exception is a violation too: the contract expects a result.
        except Exception as error:
            text = " ".join(str(error).split())
            self.violations.append(f"{name}: it raised {type(error).__name__}: {text}")

    def stop_if_broken(self) -> None:
        """Raise if there are violations: what comes next would only repeat them.

        Raises:
            ContractError: With every violation.
        """
        if self.violations:
            lines = "\n".join(f"- {violation}" for violation in self.violations)
            name = self.component.__name__
            raise ContractError(f"{self.kind} {name} breaks its contract:\n{lines}")

    def declaration(self) -> None:
        """Check the class itself: its base, its signatures, and the help of its options.

        Raises:
            ContractError: If it cannot be used at all.
        """
        module = getattr(self.component, "__module__", "unknown")
        # Any valid name: the plugin that registers it chooses the real one.
        registration = Registration(self.kind, "component", self.component, module, "(source)")
        with self.part("declaration"):
            try:
                check_component(registration)
            except PluginError as error:
                raise ViolationError(str(error)) from error
            for fault in minor_faults_of(registration):
                self.violations.append(f"declaration: {fault}")
        self.stop_if_broken()

    def make(self, *arguments: object) -> C:
        """Make the component."""
        # `declaration` has checked that it takes the arguments of its contract.
        constructor: Callable[..., C] = self.component
        return constructor(*arguments)

    def options(self, options: object) -> Any:
        """Return the options to check with: those given, or the defaults.

        Raises:
            ContractError: If there are no defaults and none are given.
        """
        with self.part("options"):
            options = self.component.Options() if options is None else options
            require(
                isinstance(options, self.component.Options),
                f"got {options!r}, expected an instance of {self.component.__name__}.Options",
            )
        self.stop_if_broken()
        return options
