"""Gradient checkpointing: the same results for less memory, or a clear refusal."""

from typing import TypeVar

from renaissance.contracts.component import Component
from renaissance.contracts.encoder import Encoder
from renaissance.contracts.fusion import Fusion
from renaissance.testing.contract_check import ContractCheck, require
from renaissance.testing.inputs import close
from renaissance.testing.module import Subject, backward, gradients_of

M = TypeVar("M", Encoder, Fusion)


def check_gradient_checkpointing(check: ContractCheck[Component], subject: Subject[M]) -> None:
    """Check that it changes no result, or is refused with a ValueError."""
    for every_n_layers in (1, 2):
        _check_recomputed(check, subject, every_n_layers)


def _check_recomputed(
    check: ContractCheck[Component], subject: Subject[M], every_n_layers: int
) -> None:
    with check.part("gradient checkpointing"):
        plain, saving = subject.build(), subject.build()
        try:
            saving.enable_gradient_checkpointing(every_n_layers)
        except ValueError:
            return
        # In training mode, in which layers recompute; with one seed, dropout draws the same.
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
            f"gradient checkpointing with every_n_layers = {every_n_layers} changes results or "
            "gradients; recompute what forward computed, or raise ValueError",
        )
