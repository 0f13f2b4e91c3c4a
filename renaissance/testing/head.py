"""The contract of heads."""

import torch
from torch import Tensor

from renaissance.contracts.head import Head
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close, shape_of
from renaissance.testing.module import Subject, check_module


def check_head(
    component: type[Head], options: object = None, *, input_size: int = 16, output_size: int = 5
) -> None:
    """Check a head against its contract.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        input_size: Size of the vectors to try it with.
        output_size: Number of logits to ask for.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("head", component)
    check.declaration()
    options = check.options(options)
    vectors = torch.randn(2, 3, input_size, generator=torch.Generator().manual_seed(6))

    def run(module: Head) -> list[Tensor]:
        return [module(vectors)]

    subject = Subject(lambda: check.make(options, input_size, output_size), run)
    with check.part("making"):
        module = subject.build()
    check.stop_if_broken()
    with check.part("shapes"), torch.no_grad():
        for some in (vectors, vectors[0], vectors[:0]):
            logits = module(some)
            expected = (*some.shape[:-1], output_size)
            require(
                isinstance(logits, Tensor)
                and logits.is_floating_point()
                and tuple(logits.shape) == expected,
                f"forward returned {shape_of(logits)} for {tuple(some.shape)}, expected "
                f"floating-point {expected}: (..., input_size) to (..., output_size), for any "
                "number of vectors, including none",
            )
    check.stop_if_broken()
    with check.part("rows"), torch.no_grad():
        alone = torch.stack([module(row) for row in vectors.reshape(-1, 1, input_size)])
        require(
            close(module(vectors).reshape(-1, output_size), alone[:, 0]),
            "the logits of a vector change when it is batched with others; in evaluation mode, let "
            "no vector depend on another",
        )
    check_module(check, subject, can_be_frozen=False)
    check.stop_if_broken()
