"""The contract of fusion modules."""

from typing import get_args

import torch
from torch import Tensor

from renaissance.contracts.fusion import FusedUse, Fusion
from renaissance.contracts.tokens import Tokens, TokenUse
from renaissance.testing import inputs
from renaissance.testing.checkpointing import check_gradient_checkpointing
from renaissance.testing.contract_check import ContractCheck, ViolationError, require
from renaissance.testing.encoder import check_tokens
from renaissance.testing.inputs import close, row_of, states
from renaissance.testing.module import Subject, check_module


def check_fusion(component: type[Fusion], options: object = None) -> None:
    """Check a fusion module against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("fusion", component)
    check.declaration()
    options = check.options(options)
    subject = Subject(lambda: check.make(options), _run)
    with check.part("making"):
        module = subject.build()
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
    with check.part("uses"), torch.no_grad():
        _check_uses(module)
    with check.part("rows"), torch.no_grad():
        _check_rows(module)
    with check.part("real tokens"), torch.no_grad():
        _check_real_tokens(module)
    check_module(check, subject, can_be_frozen=True)
    check_gradient_checkpointing(check, subject)
    check.stop_if_broken()


def _inputs(module: Fusion, filler: float = 0.0) -> tuple[Tokens, Tokens]:
    size = module.hidden_size
    return (
        states(inputs.TEXT_LENGTHS, size, filler),
        states(inputs.IMAGE_LENGTHS, size, filler),
    )


def _run(module: Fusion) -> list[Tensor]:
    return [tokens.hidden_states[tokens.attention_mask] for tokens in module(*_inputs(module))]


def _check_shapes(module: Fusion) -> None:
    tokens = _inputs(module)
    result: object = module(*tokens)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ViolationError(
            f"forward returned {type(result).__name__}, expected (text: Tokens, image: Tokens)"
        )
    for name, before, after in zip(("text", "image"), tokens, result, strict=True):
        check_tokens(after, f"forward ({name})", len(inputs.TEXT_LENGTHS), module.hidden_size)
        require(
            torch.equal(after.attention_mask, before.attention_mask),
            f"forward changed the mask of the {name}; return a state for each token, and the mask "
            "unchanged",
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
                f"a pair's {name} tokens change when it is batched with other pairs; let no token "
                "attend to padding or to other pairs",
            )


def _check_uses(module: Fusion) -> None:
    text, image = _inputs(module)
    whole_text, whole_image = (tokens.hidden_states[:1] for tokens in module(text, image))
    for text_use in get_args(TokenUse):
        for image_use in get_args(TokenUse):
            uses = [FusedUse(1, text_use, image_use), FusedUse(2)]
            fused_text, fused_image = module.fuse(text, image, uses)[0]
            _check_use("text", text_use, fused_text, whole_text)
            _check_use("image", image_use, fused_image, whole_image)


def _check_rows(module: Fusion) -> None:
    text, image = _inputs(module)
    # The second image is in three pairs, the first text in two.
    text_rows, image_rows = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 1, 0, 1])
    uses = [FusedUse(3), FusedUse(1, "first", "first")]
    fused = module.fuse_rows(text, image, text_rows, image_rows, uses)
    gathered = (
        text.map(lambda part: part[text_rows]),
        image.map(lambda part: part[image_rows]),
    )
    expected = module.fuse(*gathered, uses)
    for name, ours, theirs in zip(
        ("text", "image"), zip(*fused, strict=True), zip(*expected, strict=True), strict=True
    ):
        for one, other in zip(ours, theirs, strict=True):
            require(
                one is not None
                and other is not None
                and close(one.hidden_states, other.hidden_states)
                and torch.equal(one.attention_mask, other.attention_mask),
                f"fuse_rows differs from fuse in the {name} tokens of pairs that share a row; it "
                "may skip work, but must agree with fuse on the gathered rows",
            )


def _check_real_tokens(module: Fusion) -> None:
    text, image = _inputs(module)
    mask = text.attention_mask
    real = {n: part.flatten().nonzero()[:, 0] for n, part in ((1, mask[:1]), (2, mask[1:]))}
    told = module.fuse(text, image, [FusedUse(n, text_index=index) for n, index in real.items()])
    expected = module.fuse(text, image, [FusedUse(1), FusedUse(2)])
    for group, other in zip(told, expected, strict=True):
        for name, ours, theirs in zip(("text", "image"), group, other, strict=True):
            require(
                ours is not None
                and theirs is not None
                and torch.equal(ours.attention_mask, theirs.attention_mask)
                and close(
                    ours.hidden_states[ours.attention_mask],
                    theirs.hidden_states[theirs.attention_mask],
                ),
                f"fuse gives other real {name} tokens if it is told which text tokens are real; "
                "FusedUse.text_index counts the text tokens of its own pairs, padding included",
            )


def _check_use(name: str, use: TokenUse, fused: Tokens | None, whole: Tensor) -> None:
    if use == "none":
        require(fused is None, f"fuse returned {name} tokens for the use 'none', expected None")
        return
    expected = whole[:, :1] if use == "first" else whole
    require(
        fused is not None
        and fused.hidden_states.shape == expected.shape
        and close(fused.hidden_states, expected),
        f"fuse for the {name} use '{use}' differs from forward; it may skip work, but must agree "
        "with forward on every token that it returns",
    )
