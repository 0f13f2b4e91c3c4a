"""NLVR2's second metric; in a module of its own, because torchmetrics is slow to import."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Consistency(Metric):  # type: ignore[misc]
    """Share of the groups of examples in which all examples are right."""

    full_state_update = False
    groups: list[Tensor]
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("groups", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        # A rank without examples takes part in gathering, too, and must know the dtype.
        self.groups.append(torch.zeros(0, dtype=torch.int64, device=self.device))
        self.right.append(torch.zeros(0, dtype=torch.int64, device=self.device))

    def update(self, groups: Tensor, right: Tensor) -> None:
        """Add examples.

        Args:
            groups: Group of each example, (examples,), int64.
            right: Whether each is right, (examples,), bool.
        """
        self.groups.append(groups)
        self.right.append(right.long())

    def compute(self) -> Tensor:
        """Return the share; NaN without examples."""
        groups, right = (
            torch.cat(value) if isinstance(value, list) else value
            for value in (self.groups, self.right)
        )
        all_groups, wrong_groups = set(groups.tolist()), set(groups[right == 0].tolist())
        share = 1 - len(wrong_groups) / len(all_groups) if all_groups else float("nan")
        return torch.tensor(share, device=self.device)
