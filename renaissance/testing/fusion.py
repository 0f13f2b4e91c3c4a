"""The contract of fusion modules."""

from typing import Any, get_args

import torch
from torch import Tensor

from renaissance.contracts.fusion import FusedUse, Fusion
from renaissance.contracts.tokens import Tokens, TokenUse
from renaissance.testing import inputs
from renaissance.testing.checkpointing import check_gradient_checkpointing
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.encoder import check_tokens
from renaissance.testing.inputs import close, row_of, states
from renaissance.testing.module import Subject, check_module


def check_fusion(component: type[Fusion], options: Any = None) -> None:
    """Check a fusion module against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults where absent.

    Raises:
        ContractError: With everything that is not kept, in words.
    """
    check = ContractCheck("fusion", component)
    check.declaration()
    options = check.options(options)
    make: Any = component
    subject = Subject(lambda: make(options), _run)
    with check.part("making"):
        module = subject.build()
        assert isinstance(module, Fusion)
        size = getattr(module, "hidden_size", None)
        require(
            isinstance(size, int) and size > 0,
            f"hidden_size is {size!r}, expected the width that it takes and returns; set it in "
            "__init__",
        )
    check.stop_if_broken()
    with check.part("shapes"), torch.no_grad():
        _check_shapes(module)
    check.stop_if_broken()
    with check.part("padding"), torch.no_grad():
        _check_padding(module)
    with check.part("reads"), torch.no_grad():
        _check_reads(module)
    check_module(check, subject, can_be_frozen=True)
    check_gradient_checkpointing(check, subject)
    check.stop_if_broken()


def _inputs(module: Any, filler: float = 0.0) -> tuple[Tokens, Tokens]:
    size = module.hidden_size
    return (
        states(inputs.TEXT_LENGTHS, size, filler),
        states(inputs.IMAGE_LENGTHS, size, filler),
    )


def _run(module: Any) -> list[Tensor]:
    return [tokens.hidden_states[tokens.attention_mask] for tokens in module(*_inputs(module))]


def _check_shapes(module: Fusion) -> None:
    given = _inputs(module)
    result: Any = module(*given)
    require(
        isinstance(result, tuple) and len(result) == 2,
        f"forward returned {type(result).__name__}, expected (text: Tokens, image: Tokens)",
    )
    for name, before, after in zip(("text", "image"), given, result, strict=True):
        check_tokens(after, f"forward ({name})", len(inputs.TEXT_LENGTHS), module.hidden_size)
        require(
            torch.equal(after.attention_mask, before.attention_mask),
            f"forward changed the mask of the {name}; a state for each token, the mask as it came",
        )


def _check_padding(module: Fusion) -> None:
    plain, noisy = module(*_inputs(module)), module(*_inputs(module, filler=7.0))
    for name, one, other in zip(("text", "image"), plain, noisy, strict=True):
        real = one.attention_mask
        require(
            close(one.hidden_states[real], other.hidden_states[real]),
            f"other states in the padding change the real {name} tokens; let no token attend to "
            "padding: use both attention masks (True = real)",
        )
    for row in range(len(inputs.TEXT_LENGTHS)):
        alone = module(*(row_of(tokens, row) for tokens in _inputs(module)))
        for name, together, single in zip(("text", "image"), plain, alone, strict=True):
            require(
                close(row_of(together, row).hidden_states, single.hidden_states),
                f"a pair's {name} tokens are others alone than padded beside other pairs; let no "
                "token attend to padding or to other pairs",
            )


def _check_reads(module: Fusion) -> None:
    text, image = _inputs(module)
    whole = dict(zip(("text", "image"), module(text, image), strict=True))
    for text_use in get_args(TokenUse):
        for image_use in get_args(TokenUse):
            reads = [FusedUse(1, text_use, image_use), FusedUse(2)]
            entry = module.fuse(text, image, reads)[0]
            for name, read, found in zip(
                ("text", "image"), (text_use, image_use), entry, strict=True
            ):
                _check_read(name, read, found, whole[name].hidden_states[:1])


def _check_read(name: str, read: str, found: Tokens | None, whole: Tensor) -> None:
    if read == "none":
        require(found is None, f"fuse returned {name} tokens read as 'none', expected None")
        return
    expected = whole[:, :1] if read == "first" else whole
    require(
        found is not None
        and found.hidden_states.shape == expected.shape
        and close(found.hidden_states, expected),
        f"fuse with {name} read as '{read}' differs from forward; it may leave out work, but must "
        "agree with forward on every token that it returns",
    )
