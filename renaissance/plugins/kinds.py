"""The table of the kinds of component.

The registry, the run spec, the documentation, `plugins new`, the conformance kit and `doctor` read
it. Contracts are named, not imported: most import torch, which takes seconds.
"""

from typing import Literal, get_args

import attrs

import renaissance
from renaissance.contracts.component import Component
from renaissance.errors import PluginError, did_you_mean

Kind = Literal[
    "encoder",
    "pooler",
    "fusion",
    "objective",
    "dataset",
    "head",
    "monitor",
    "transform",
    "optimizer",
    "source",
]


@attrs.frozen
class KindInfo:
    """One kind of component.

    Attributes:
        name: The kind.
        contract_name: Public name of its contract: `renaissance.Encoder`.
        made_with: Arguments of a component's `__init__`, without self.
        summary: What it does, in one line.
        shared_keys: Keys that every table of this kind has in the run spec, in addition to `type`;
            no component may have an option of the same name.
    """

    name: Kind
    contract_name: str
    made_with: tuple[str, ...]
    summary: str
    shared_keys: tuple[str, ...] = ()

    @property
    def contract(self) -> type[Component]:
        """The class that components of this kind derive from."""
        contract: type[Component] = getattr(renaissance, self.contract_name)
        return contract

    @property
    def hook(self) -> str:
        """Name of the hook that registers components of this kind."""
        return f"register_{self.name}s"


KINDS: dict[Kind, KindInfo] = {
    info.name: info
    for info in (
        KindInfo(
            name="encoder",
            contract_name="Encoder",
            made_with=("options", "context"),
            summary="text, images or both to token states",
            shared_keys=("frozen", "adapt"),
        ),
        KindInfo(
            name="pooler",
            contract_name="Pooler",
            made_with=("options", "hidden_size"),
            summary="the fused tokens of a pair to one vector",
        ),
        KindInfo(
            name="fusion",
            contract_name="Fusion",
            made_with=("options",),
            summary="lets text and image attend to each other",
            shared_keys=("frozen",),
        ),
        KindInfo(
            name="objective",
            contract_name="Objective",
            made_with=("options", "context"),
            summary="a task: its loss and its metrics",
            shared_keys=("weight", "name", "head"),
        ),
        KindInfo(
            name="dataset",
            contract_name="Dataset",
            made_with=("options", "context"),
            summary="a sequence of samples",
            shared_keys=("weight", "objectives"),
        ),
        KindInfo(
            name="head",
            contract_name="Head",
            made_with=("options", "input_size", "output_size"),
            summary="vectors to logits",
        ),
        KindInfo(
            name="monitor",
            contract_name="Monitor",
            made_with=("options",),
            summary="follows a run and reports on it",
        ),
        KindInfo(
            name="transform",
            contract_name="Transform",
            made_with=("options", "context"),
            summary="a picture to a square of pixels",
            shared_keys=("mean", "std"),
        ),
        KindInfo(
            name="optimizer",
            contract_name="Optimizer",
            made_with=("options",),
            summary="parameter groups to a torch optimizer",
            shared_keys=("learning_rate", "weight_decay", "multipliers", "layer_decay"),
        ),
        KindInfo(
            name="source",
            contract_name="Source",
            made_with=("options", "context"),
            summary="a downloaded dataset to rows of tables",
        ),
    )
}
assert tuple(KINDS) == get_args(Kind)


def require_kind(kind: str) -> Kind:
    """Return a kind by its name.

    Raises:
        PluginError: If there is no such kind.
    """
    for known in KINDS:
        if kind == known:
            return known
    raise PluginError(
        f"unknown kind '{kind}'; known: {', '.join(KINDS)}{did_you_mean(kind, KINDS)}"
    )
