"""Collects what is wrong with a component, and what every class must declare."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from renaissance.contracts.component import Component
from renaissance.errors import PluginError
from renaissance.plugins.contract import check_component, weaknesses_of
from renaissance.plugins.kinds import Kind
from renaissance.plugins.registry import Registration


class ContractError(AssertionError):
    """A component that does not keep its contract; the message lists what is not kept."""


class ViolationError(Exception):
    """One promise that is not kept."""


def require(kept: bool, text: str) -> None:
    """Raise a violation, with what was found and what the contract wants, unless it is kept."""
    if not kept:
        raise ViolationError(text)


class ContractCheck:
    """One component under check.

    Args:
        kind: Which kind it is meant to be.
        component: Its class.

    Attributes:
        violations: What was found so far, by the part of the contract.
    """

    def __init__(self, kind: Kind, component: type[Component]) -> None:
        self.kind = kind
        self.component = component
        self.violations: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Examine one part of the contract; a violation, or any exception, goes into the list."""
        try:
            yield
        except ViolationError as violation:
            self.violations.append(f"{name}: {violation}")
        # Whatever a component raises where its contract wants a result is a violation.
        except Exception as error:
            text = " ".join(str(error).split())
            self.violations.append(f"{name}: it raised {type(error).__name__}: {text}")

    def stop_if_broken(self) -> None:
        """Raise if anything was found: what comes next would only repeat it.

        Raises:
            ContractError: With every violation.
        """
        if self.violations:
            lines = "\n".join(f"- {violation}" for violation in self.violations)
            name = self.component.__name__
            raise ContractError(f"{self.kind} {name} breaks its contract:\n{lines}")

    def declaration(self) -> None:
        """Examine the class itself: its base, its signatures, and that its options are documented.

        Raises:
            ContractError: If it cannot be used at all.
        """
        module = getattr(self.component, "__module__", "unknown")
        # A name that fits: which one it gets is up to whoever registers it.
        registration = Registration(self.kind, "component", self.component, module, "(source)")
        with self.part("declaration"):
            try:
                check_component(registration)
            except PluginError as error:
                raise ViolationError(str(error)) from error
            for fault in weaknesses_of(registration):
                self.violations.append(f"declaration: {fault}")
        self.stop_if_broken()

    def options(self, options: Any) -> Any:
        """Return the options to examine with: those given, or the defaults.

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
