"""Tiny inputs, the same every time."""

import torch
from torch import Tensor

from renaissance.contracts.tokens import Tokens

TEXT_LENGTHS = (9, 6, 3)
IMAGE_LENGTHS = (5, 5, 4)
# Results of the same arithmetic in another order differ by rounding.
TOLERANCE = 1e-4


def close(one: Tensor, other: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Return whether two results are the same up to rounding."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance)


def shape_of(tensor: object) -> str:
    """Describe what should be a tensor."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    """Return the mask of rows of these lengths: (rows, tokens), bool."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def texts(vocab_size: int, filler: int = 1) -> tuple[Tensor, Tensor]:
    """Return token ids, padded with `filler`, and their mask: three texts."""
    generator = torch.Generator().manual_seed(1)
    mask = mask_of(TEXT_LENGTHS)
    input_ids = torch.randint(2, vocab_size, mask.shape, generator=generator)
    return input_ids.masked_fill(~mask, filler), mask


def pixels(image_size: int) -> Tensor:
    """Return normalized pixels, (3, 3, image_size, image_size)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, image_size, image_size, generator=generator)


def states(lengths: tuple[int, ...], hidden_size: int, filler: float = 0.0) -> Tokens:
    """Return random token states; padding is `filler` everywhere."""
    generator = torch.Generator().manual_seed(3 + len(lengths) + max(lengths))
    mask = mask_of(lengths)
    hidden_states = torch.randn(*mask.shape, hidden_size, generator=generator)
    return Tokens(hidden_states.masked_fill(~mask[:, :, None], filler), mask)


def row_of(tokens: Tokens, row: int) -> Tokens:
    """Return one row without its padding."""
    length = int(tokens.attention_mask[row].sum())
    return Tokens(
        tokens.hidden_states[row : row + 1, :length], tokens.attention_mask[row : row + 1, :length]
    )
