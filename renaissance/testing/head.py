"""The contract of heads."""

from typing import Any

import torch
from torch import Tensor, nn

from renaissance.contracts.head import Head
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close, shape_of
from renaissance.testing.module import Subject, check_module


def check_head(
    component: type[Head], options: Any = None, *, input_size: int = 16, output_size: int = 5
) -> None:
    """Check a head against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults where absent.
        input_size: Size of the vectors that it is tried with.
        output_size: Number of logits that it is asked for.

    Raises:
        ContractError: With everything that is not kept, in words.
    """
    check = ContractCheck("head", component)
    check.declaration()
    options = check.options(options)
    make: Any = component
    vectors = torch.randn(2, 3, input_size, generator=torch.Generator().manual_seed(6))

    def run(module: nn.Module) -> list[Tensor]:
        return [module(vectors)]

    subject = Subject(lambda: make(options, input_size, output_size), run)
    with check.part("making"):
        module = subject.build()
    check.stop_if_broken()
    with check.part("shapes"), torch.no_grad():
        for given in (vectors, vectors[0], vectors[:0]):
            logits = module(given)
            expected = (*given.shape[:-1], output_size)
            require(
                isinstance(logits, Tensor)
                and logits.is_floating_point()
                and tuple(logits.shape) == expected,
                f"forward returned {shape_of(logits)} for {tuple(given.shape)}, expected "
                f"floating-point {expected}: (..., input_size) to (..., output_size), any number "
                "of vectors, none too",
            )
    check.stop_if_broken()
    with check.part("rows"), torch.no_grad():
        alone = torch.stack([module(row) for row in vectors.reshape(-1, 1, input_size)])
        require(
            close(module(vectors).reshape(-1, output_size), alone[:, 0]),
            "a vector has other logits alone than beside others; in evaluation mode a vector "
            "depends on no other",
        )
    check_module(check, subject, can_be_frozen=False)
    check.stop_if_broken()
