"""The figures of `itc` over a whole split; apart from it, since torchmetrics is slow to import."""

import torch
from torch import Tensor
from torchmetrics import Metric

from renaissance.builtin.objectives.contrastive_loss import LossName, losses_and_accuracies

# Samples that are compared with each other: few enough to be cheap in any split, as many as in
# the usual test of 1,000 images.
NUM_CANDIDATES = 1000


class Contrast(Metric):  # type: ignore[misc]
    """Loss and accuracies of a split, whatever its micro-batches.

    The split is cut by index into equal blocks of up to `NUM_CANDIDATES` consecutive samples, and
    each sample is compared with those of its block.

    Args:
        size: Size of the compared vectors.
        loss: The loss.
    """

    full_state_update = False
    indices: list[Tensor]
    keys: list[Tensor]
    vectors: list[Tensor]
    scale: Tensor
    bias: Tensor

    def __init__(self, size: int, loss: LossName) -> None:
        super().__init__()
        self._size = size
        self._loss = loss
        for name in ("indices", "keys", "vectors"):
            self.add_state(name, [], dist_reduce_fx="cat")
        # The same on all ranks that have samples; lowest on the others.
        self.add_state("scale", torch.tensor(0.0), dist_reduce_fx="max")
        self.add_state("bias", torch.tensor(-torch.inf), dist_reduce_fx="max")
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        # A rank without samples takes part in gathering, too, and must know dtype and size.
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.indices.append(none)
        self.keys.append(none)
        self.vectors.append(torch.zeros(0, 2, self._size, device=self.device))

    def update(
        self,
        indices: Tensor,
        keys: Tensor,
        text: Tensor,
        image: Tensor,
        scale: Tensor,
        bias: Tensor,
    ) -> None:
        """Add samples.

        Args:
            indices: Index of each sample in the split, (samples,), int64.
            keys: Key of each sample's image, (samples,), int64.
            text: Unit vectors of the texts, (samples, size).
            image: Unit vectors of the images, (samples, size).
            scale: What the cosines are multiplied by, (samples,), all equal.
            bias: What is then added, likewise.
        """
        self.indices.append(indices)
        self.keys.append(keys)
        self.vectors.append(torch.stack([text, image], dim=1))
        self.scale, self.bias = scale.max(), bias.max()

    def compute(self) -> dict[str, float]:
        """Return the figures; empty without samples."""
        indices, keys, vectors = (
            torch.cat(value) if isinstance(value, list) else value
            for value in (self.indices, self.keys, self.vectors)
        )
        if not len(indices):
            return {}
        order = indices.argsort()
        num_blocks = -(-len(order) // NUM_CANDIDATES)
        sums: dict[str, float] = {}
        for block in order.tensor_split(num_blocks):
            text, image = vectors[block].unbind(1)
            logits = self.scale * text @ image.T + self.bias
            positives = keys[block][:, None] == keys[block]
            figures = losses_and_accuracies(logits, logits.T, positives, self._loss)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + float(value.double().sum())
        return {name: value / len(order) for name, value in sums.items()}
