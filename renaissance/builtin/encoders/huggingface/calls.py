"""Which module of a model was called with what, and what it returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import attrs
from torch import Tensor, nn


@attrs.frozen
class Call:
    """One call of a module.

    Attributes:
        arguments: By name.
        output: What it returned.
    """

    arguments: Mapping[str, Any]
    output: object

    @property
    def first(self) -> Any:
        """The first argument; None without any."""
        return next(iter(self.arguments.values()), None)

    @property
    def states(self) -> Tensor:
        """The first argument of a layer."""
        states: Tensor = self.first
        return states


class Calls:
    """The calls of all modules of a model while it runs once.

    Args:
        model: The model.
        run: Runs it, and returns its output.

    Attributes:
        output: What the run returned.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Tensor]) -> None:
        self._calls: dict[nn.Module, list[Call]] = {module: [] for module in model.modules()}
        hooks = [m.register_forward_hook(self._record, with_kwargs=True) for m in self._calls]
        try:
            self.output = run()
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, module: nn.Module) -> list[Call]:
        """Return the calls of a module, in their order."""
        return self._calls[module]

    def _record(
        self,
        module: nn.Module,
        arguments: tuple[object, ...],
        keywords: dict[str, object],
        output: object,
    ) -> None:
        self._calls[module].append(Call(_named(module, arguments, keywords), output))


def _named(
    module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]
) -> dict[str, object]:
    bound = signature(module.forward).bind(*arguments, **keywords).arguments
    # What a signature takes as **kwargs.
    more = bound.pop("kwargs", {})
    return {**bound, **more}
