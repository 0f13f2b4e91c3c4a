"""How the samples of a step are divided among ranks and micro-batches."""

import contextlib
import math
from collections.abc import Sequence

import attrs

from renaissance.errors import SpecError, shortened
from renaissance.spec.sections import TrainSection

# Up to here, finding divisors takes a moment.
MAX_FACTORED = 10**10


@attrs.frozen
class BatchPlan:
    """The batch arithmetic of a run.

    Attributes:
        global_batch_size: Samples per step.
        micro_batch_size: Samples that one rank sends through the model at once.
        grad_accum_steps: Micro-batches per rank and step.
        world_size: Number of ranks.
    """

    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int

    @staticmethod
    def of(section: TrainSection, world_size: int) -> "BatchPlan":
        """Work out the plan.

        Raises:
            SpecError: If the global batch does not divide evenly among ranks and micro-batches.
        """
        total = section.global_batch_size
        if total % world_size:
            raise SpecError(
                f"train.global_batch_size: got {total}, which {world_size} ranks cannot share "
                f"equally; the nearest sizes that they can: {_near(total, world_size)}. Or start "
                f"as many ranks as can share it: {shortened(', '.join(map(str, divisors(total))))}"
            )
        share = total // world_size
        micro = section.micro_batch_size or share
        if share % micro:
            raise SpecError(
                f"train.micro_batch_size: got {micro}, but each of {world_size} ranks has "
                f"{total} / {world_size} = {share} samples per step, which is not a multiple; "
                f"use a divisor of {share}: "
                f"{shortened(', '.join(map(str, divisors(share))))}"
            )
        return BatchPlan(total, micro, share // micro, world_size)

    @staticmethod
    def most_ranks(section: TrainSection, limit: int) -> int:
        """Return the largest number of ranks, up to a limit, that can share the global batch.

        Raises:
            SpecError: If not even one rank can take it.
        """
        for num_ranks in range(limit, 1, -1):
            with contextlib.suppress(SpecError):
                return BatchPlan.of(section, num_ranks).world_size
        return BatchPlan.of(section, 1).world_size

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} samples per step = {self.micro_batch_size} (micro-batch) x "
            f"{self.grad_accum_steps} (accumulation) x {self.world_size} (ranks)"
        )


def _near(total: int, world_size: int) -> str:
    below = total // world_size * world_size
    candidates: Sequence[int] = (below, below + world_size) if below else (world_size,)
    return ", ".join(map(str, candidates))


def divisors(size: int) -> list[int]:
    """Return the divisors of a size, in order; of a size beyond any batch, only 1 and itself."""
    if size > MAX_FACTORED:
        return [1, size]
    small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    return sorted({*small, *(size // d for d in small)})
