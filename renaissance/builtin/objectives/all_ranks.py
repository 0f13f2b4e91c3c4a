"""Samples of all ranks, with gradient to all ranks."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gather_samples(text: Tensor, image: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors and keys of all ranks' samples; every rank must call it.

    Args:
        text: Vectors of this rank's texts, (samples, size).
        image: Vectors of its images, (samples, size).
        keys: Keys of its images, (samples,), int64.
    """
    # Sizes may differ between ranks, since unreadable records are left out.
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(keys)]))
    counts = [int(size) for size in sizes]
    missing = max(counts) - len(keys)
    # (ranks, longest, 2 * size): one exchange for texts and images.
    padded = F.pad(torch.cat([text, image], dim=1), (0, 0, 0, missing))
    vectors: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    padded_keys = F.pad(keys, (0, missing))
    gathered_keys = [torch.empty_like(padded_keys) for _ in counts]
    dist.all_gather(gathered_keys, padded_keys)
    all_vectors = torch.cat([part[:count] for part, count in zip(vectors, counts, strict=True)])
    all_keys = torch.cat([part[:count] for part, count in zip(gathered_keys, counts, strict=True)])
    all_text, all_image = all_vectors.chunk(2, dim=1)
    return all_text, all_image, all_keys


class _AllGather(torch.autograd.Function):
    """Stack the tensors of all ranks: (...) to (ranks, ...), the same shape on every rank.

    Every rank's loss depends on every rank's tensor, so the backward pass adds up their gradients.
    """

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        """Gather all ranks' tensors."""
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Add up the gradients of all ranks, and return this rank's part."""
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
