"""The contract of poolers."""

from typing import get_args

import torch
from torch import Tensor

from renaissance.contracts.pooler import Pooler
from renaissance.contracts.tokens import Tokens, TokenUse
from renaissance.testing import inputs
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close, row_of, shape_of, states
from renaissance.testing.module import Subject, check_module


def check_pooler(component: type[Pooler], options: object = None, *, hidden_size: int = 16) -> None:
    """Check a pooler against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        hidden_size: Width of the tokens to try it with.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("pooler", component)
    check.declaration()
    options = check.options(options)
    subject = Subject(
        lambda: check.make(options, hidden_size), lambda module: [_pool(module, hidden_size)]
    )
    with check.part("making"):
        module = subject.build()
        _check_attributes(module)
    check.stop_if_broken()
    with check.part("shapes"), torch.no_grad():
        vector = _pool(module, hidden_size)
        expected = (len(inputs.TEXT_LENGTHS), module.output_size)
        require(
            isinstance(vector, Tensor)
            and vector.is_floating_point()
            and tuple(vector.shape) == expected,
            f"forward returned {shape_of(vector)}, expected floating-point {expected}: (pairs, "
            "output_size)",
        )
    check.stop_if_broken()
    with check.part("padding"), torch.no_grad():
        _check_padding(module, hidden_size)
    check_module(check, subject, can_be_frozen=False)
    check.stop_if_broken()


def _check_attributes(module: Pooler) -> None:
    size = getattr(module, "output_size", None)
    require(
        isinstance(size, int) and size > 0,
        f"output_size is {size!r}, expected the size of its vectors; set it in __init__",
    )
    for name in ("text_use", "image_use"):
        require(
            getattr(module, name) in get_args(TokenUse),
            f"{name} is {getattr(module, name)!r}, expected one of {', '.join(get_args(TokenUse))}",
        )


def _tokens(module: Pooler, hidden_size: int, filler: float = 0.0) -> list[Tokens | None]:
    """Return what the engine passes to this pooler: None for a modality that it does not use."""
    tokens: list[Tokens | None] = []
    for use, lengths in (
        (module.text_use, inputs.TEXT_LENGTHS),
        (module.image_use, inputs.IMAGE_LENGTHS),
    ):
        whole = states(lengths, hidden_size, filler)
        if use == "first":
            whole = Tokens(*(part[:, :1] for part in whole))
        tokens.append(None if use == "none" else whole)
    return tokens


def _pool(module: Pooler, hidden_size: int, filler: float = 0.0) -> Tensor:
    vector: Tensor = module(*_tokens(module, hidden_size, filler))
    return vector


def _check_padding(module: Pooler, hidden_size: int) -> None:
    together = _pool(module, hidden_size)
    require(
        close(together, _pool(module, hidden_size, filler=7.0)),
        "other states in the padding change the vector; ignore padding: use attention_mask "
        "(True = real)",
    )
    for row in range(len(together)):
        tokens = _tokens(module, hidden_size)
        alone = module(*(None if t is None else row_of(t, row) for t in tokens))
        require(
            close(together[row : row + 1], alone),
            "a pair's vector changes when it is batched with other pairs; ignore padding and "
            "other pairs",
        )
