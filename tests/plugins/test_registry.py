"""The registry: what it accepts, what it refuses and why, and its order."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from torch import Tensor

from renaissance import Encoder, Head, Objective, PluginError, Pooler, option, positive
from renaissance.plugins.contract import check_component
from renaissance.plugins.registry import Registration, Registry

if TYPE_CHECKING:
    from pathlib import Path


@attrs.frozen
class NoOptions:
    pass


class Some(Head):
    Options = NoOptions

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


class NoForward(Head):
    Options = NoOptions


class NoModalities(Encoder):
    Options = NoOptions


class NoRequires(Objective):
    Options = NoOptions


class NotFrozen(Some):
    @attrs.define
    class Options:
        size: int = option(1, help="With a validator, it has a __setattr__.", validator=positive)


class PlainOptions(Some):
    class Options:
        size: int = 1


class Weighted(Objective):
    requires = frozenset({"text"})

    @attrs.frozen
    class Options:
        weight: float = option(1.0, help="Its name is taken.")

    def collate(self, samples: Any, builder: Any) -> Any:
        raise NotImplementedError

    def forward(self, batch: Any, features: Any) -> Any:
        raise NotImplementedError


class NotResolvable(Some):
    @attrs.frozen
    class Options:
        folder: "Path | None" = option(None, help="Its type is there for checkers only.")


def registration(component: Any, name: Any = "some", kind: Any = "head") -> Registration:
    return Registration(kind, name, component, "some-distribution", "1.0")


@pytest.mark.parametrize(
    ("registered", "text"),
    [
        (
            registration(Some, name="Some_Head"),
            "some-distribution 1.0: head 'Some_Head': names are kebab-case, such as 'my-head'; "
            "rename it",
        ),
        (
            registration(Some, name="a.b"),
            "some-distribution 1.0: head 'a.b': names are kebab-case, such as 'my-head'; rename it",
        ),
        (
            registration(Some, name=None),
            "some-distribution 1.0: head None: names are kebab-case, such as 'my-head'; rename it",
        ),
        (
            registration(Pooler),
            f"some-distribution 1.0: head 'some': got {Pooler!r}, expected a subclass of "
            "renaissance.Head; derive the class from it",
        ),
        (
            registration(NoForward),
            "some-distribution 1.0: head 'some': NoForward does not define forward, which every "
            "Head has; see its docstring",
        ),
        (
            registration(NoModalities, kind="encoder"),
            "some-distribution 1.0: encoder 'some': NoModalities does not define modalities, "
            "which every Encoder has; see its docstring",
        ),
        (
            registration(NoRequires, kind="objective"),
            "some-distribution 1.0: objective 'some': NoRequires does not define collate, forward, "
            "which every Objective has; see its docstring",
        ),
        (
            registration(NotFrozen),
            f"some-distribution 1.0: head 'some': NotFrozen.Options is {NotFrozen.Options!r}, "
            "expected a nested class decorated with @attrs.frozen (empty if there is nothing to "
            "set)",
        ),
        (
            registration(PlainOptions),
            f"some-distribution 1.0: head 'some': PlainOptions.Options is "
            f"{PlainOptions.Options!r}, expected a nested class decorated with @attrs.frozen "
            "(empty if there is nothing to set)",
        ),
        (
            registration(Weighted, kind="objective"),
            "some-distribution 1.0: objective 'some': its option 'weight' has the name of a key "
            "that every objective table has (type, weight, name, head); rename the option",
        ),
        (
            registration(NotResolvable),
            "some-distribution 1.0: head 'some': NotResolvable.Options: a type cannot be resolved: "
            "name 'Path' is not defined; import it outside of `if TYPE_CHECKING`",
        ),
    ],
)
def test_a_broken_contract_is_refused(registered: Registration, text: str) -> None:
    with pytest.raises(PluginError) as caught:
        check_component(registered)
    assert str(caught.value) == text


def test_a_component_is_found_by_kind_and_name(plugins_with: Callable[..., Any]) -> None:
    plugins = plugins_with(("head", "some", Some), ("head", "refcoco+", Some))
    assert plugins.require("head", "some").component is Some
    assert plugins.registry.find("pooler", "some") is None
    assert plugins.registry.names("head") == ["refcoco+", "some"]
    with pytest.raises(PluginError) as caught:
        plugins.require("head", "sone")
    assert str(caught.value) == ("unknown head 'sone'; known: refcoco+, some; did you mean 'some'?")
    assert plugins.unknown("pooler", "x") == "unknown pooler 'x'; known: none"


def test_order_does_not_depend_on_registration() -> None:
    class AnEncoder(Encoder):
        modalities = frozenset({"text"})
        Options = NoOptions

    components = [
        registration(Some, "z"),
        registration(AnEncoder, "b", "encoder"),
        registration(Some, "a"),
        registration(AnEncoder, "a", "encoder"),
    ]
    for order in (components, components[::-1]):
        registry = Registry()
        for component in order:
            registry.add(component)
        assert [(r.kind, r.name) for r in registry] == [
            ("encoder", "a"),
            ("encoder", "b"),
            ("head", "a"),
            ("head", "z"),
        ]
