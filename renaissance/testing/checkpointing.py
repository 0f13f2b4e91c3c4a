"""Gradient checkpointing: the same numbers for less memory, or a clear no."""

from typing import Any

from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close
from renaissance.testing.module import Subject, backward, gradients_of


def check_gradient_checkpointing(check: ContractCheck, subject: Subject) -> None:
    """Examine that it changes no result, or is refused with a ValueError."""
    with check.part("gradient checkpointing"):
        plain, saving = subject.build(), subject.build()
        component: Any = saving
        try:
            component.enable_gradient_checkpointing()
        except ValueError:
            return
        # Where layers recompute in training mode only; dropout draws alike under one seed.
        outputs = [subject.outputs(module.train()) for module in (plain, saving)]
        for results in outputs:
            backward(results)
        pairs = zip(gradients_of(plain).values(), gradients_of(saving).values(), strict=True)
        require(
            all(map(close, *outputs))
            and all(
                a is b is None or (a is not None and b is not None and close(a, b, 1e-3))
                for a, b in pairs
            ),
            "with gradient checkpointing results or gradients are others; recompute what forward "
            "computed, or raise ValueError",
        )
