"""Steps that are not finite, left out by the device itself: the host learns of them later."""

from collections import deque
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from renaissance.contracts.objective import ObjectiveOutput
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.checkpoint import TrainState
from renaissance.engine.tensors import to_host

# Steps that may be queued on the device before the host reads how the first of them ended.
NUM_UNREAD = 1


@attrs.frozen
class GuardedStep:
    """A step, with what is needed to report it.

    Attributes:
        state: How far the run was before it.
        micro_batches: This rank's micro-batches.
        outputs: What each objective returned for each of them.
    """

    state: TrainState
    micro_batches: Sequence[MicroBatch]
    outputs: Sequence[Mapping[str, ObjectiveOutput]]


class StepGuard:
    """Lets an optimizer leave out the first step that is not finite, and all that follow it.

    Waiting for the gradient's norm before each update would leave the device without work. The
    fused optimizers of torch take a flag instead, `found_inf`, and change no parameter where it is
    set. Since it stays set, the parameters are those before the bad step when the host reads it.

    Args:
        optimizer: One that `fits`.
        device: Where it computes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._is_bad = torch.zeros((), device=device)
        self._steps: deque[tuple[GuardedStep, Tensor, torch.cuda.Event | None]] = deque()
        vars(optimizer).update(found_inf=self._is_bad, grad_scale=None)

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an optimizer heeds `found_inf`, as torch's fused ones do."""
        return bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def step(self, norm: Tensor, step: GuardedStep) -> None:
        """Update the parameters, unless this step or an earlier one is not finite.

        Args:
            norm: The gradient's norm, a scalar on the device; the same on every rank.
            step: The step.
        """
        torch.maximum(self._is_bad, (~norm.isfinite()).float(), out=self._is_bad)
        self._optimizer.step()
        flag = to_host(self._is_bad)
        copied = torch.cuda.Event() if self._is_bad.is_cuda else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()
        self._steps.append((step, flag, copied))

    def first_bad(self, num_unread: int = 0) -> GuardedStep | None:
        """Return the first step that was left out, if there is one.

        Args:
            num_unread: Last steps that are not awaited.
        """
        while len(self._steps) > num_unread:
            step, flag, copied = self._steps.popleft()
            if copied is not None:
                copied.synchronize()
            if flag.item():
                return step
        return None
