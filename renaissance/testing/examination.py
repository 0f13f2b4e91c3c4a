"""Collects what is wrong with a component, and what every class must declare."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from renaissance.commands.doctor import faults_of
from renaissance.contracts import Component, Kind
from renaissance.errors import PluginError
from renaissance.registry import Registration, check_component


class ContractError(AssertionError):
    """A component that does not keep its contract; the message lists what is not kept."""


class BreachError(Exception):
    """One promise that is not kept."""


def require(kept: bool, text: str) -> None:
    """Raise a breach, with what was found and what the contract wants, unless it is kept."""
    if not kept:
        raise BreachError(text)


class Examination:
    """One component under examination.

    Args:
        kind: Which kind it is meant to be.
        component: Its class.

    Attributes:
        breaches: What was found so far, by the part of the contract.
    """

    def __init__(self, kind: Kind, component: type[Component]) -> None:
        self.kind = kind
        self.component = component
        self.breaches: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Examine one part of the contract; a breach, or any exception, goes into the list."""
        try:
            yield
        except BreachError as breach:
            self.breaches.append(f"{name}: {breach}")
        # Whatever a component raises where its contract wants a result is a breach.
        except Exception as error:
            text = " ".join(str(error).split())
            self.breaches.append(f"{name}: it raised {type(error).__name__}: {text}")

    def stop_if_broken(self) -> None:
        """Raise if anything was found: what comes next would only repeat it.

        Raises:
            ContractError: With every breach.
        """
        if self.breaches:
            lines = "\n".join(f"- {breach}" for breach in self.breaches)
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
                raise BreachError(str(error)) from error
            for fault in faults_of(registration):
                self.breaches.append(f"declaration: {fault}")
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
