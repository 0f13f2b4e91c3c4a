"""Checks that a model supports the run's text lengths and image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from renaissance import EncoderContext, SpecError

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

# Convolutional networks have no patch size; they halve the image twice before their first stage.
STEM_STRIDE = 4


def check_text_size(where: str, model: PreTrainedModel, context: EncoderContext) -> None:
    """Check that a text model has enough positions and word embeddings.

    Raises:
        SpecError: If it does not; the message names both numbers.
    """
    faults = []
    family = model.config.model_type
    num_positions = count_text_positions(model)
    if num_positions is not None and context.max_text_length > num_positions:
        faults.append(
            f"{where}: data.max_text_length is {context.max_text_length}, but this {family!r} has "
            f"positions for {num_positions} tokens; set data.max_text_length to {num_positions} or "
            "less, or take a model with more positions"
        )
    num_words = model.get_input_embeddings().weight.shape[0]
    if context.vocab_size > num_words:
        faults.append(
            f"{where}: the tokenizer has ids up to {context.vocab_size - 1}, but this {family!r} "
            f"has embeddings for {num_words} tokens; set data.tokenizer to the model's own, or "
            f"with random weights config.vocab_size to {context.vocab_size}"
        )
    if faults:
        raise SpecError(*faults)


def count_text_positions(model: PreTrainedModel) -> int | None:
    """Return the number of tokens a text model has positions for; None if it has no table."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            # RoBERTa and its relatives count positions from padding_idx + 1.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None


def check_image_size(where: str, config: PreTrainedConfig, image_size: int) -> None:
    """Check that images divide evenly into the model's patches and stages.

    Raises:
        SpecError: If they do not; the message names the nearest sizes that do.
    """
    if hasattr(config, "image_size") and has_image_size(config, image_size):
        return  # The size that it was made for.
    step = _stride(config)
    # Swin's last stage must still be at least as large as one window.
    smallest = step * (config.window_size if config.model_type == "swin" else 1)
    _check_multiple(where, f"this {config.model_type!r}", image_size, step, smallest)


def _stride(config: PreTrainedConfig) -> int:
    """Return how many pixels a token of the output covers in each direction."""
    num_stages = len(config.depths) if hasattr(config, "depths") else 1
    strides = getattr(config, "strides", None)
    if isinstance(strides, Sequence) and len(strides) == num_stages:
        return int(prod(strides))
    # A patch may be larger than its distance from the next.
    first = getattr(config, "patch_stride", getattr(config, "patch_size", STEM_STRIDE))
    # Each stage after the first halves the grid.
    side: int = max(pair(first))
    return side << (num_stages - 1)


def check_patch_size(where: str, patch_size: int, image_size: int) -> None:
    """Check that images divide evenly into patches.

    Raises:
        SpecError: If they do not; the message names the nearest sizes that do.
    """
    _check_multiple(where, f"patch_size {patch_size}", image_size, patch_size, patch_size)


def _check_multiple(where: str, what: str, image_size: int, step: int, smallest: int) -> None:
    if image_size % step == 0 and image_size >= smallest:
        return
    below = image_size // step * step
    nearest = [size for size in (below, below + step) if size >= smallest] or [smallest]
    raise SpecError(
        f"{where}: data.image_size is {image_size}, but {what} takes multiples of {step} "
        f"pixels from {smallest} on; the nearest: {' and '.join(map(str, nearest))}"
    )


def has_class_token(config: PreTrainedConfig, states: Tensor, image_size: int) -> bool:
    """Return whether an image model's output begins with a token that is no part of the image.

    Args:
        config: The model's config.
        states: Its output for one image.
        image_size: Side of that image, pixels.
    """
    if states.dim() == 4:
        return False
    num_tokens = states.shape[1]
    if hasattr(config, "patch_size") and not hasattr(config, "depths"):
        height, width = pair(config.patch_size)
        return num_tokens > (image_size // height) * (image_size // width)
    # In stages, the number of tokens of a grid is known from the output alone: the largest grid
    # that divides the image, with few tokens beside it. The queries of a detector are no grid, nor
    # are the groups of GroupViT.
    side = next(side for side in range(isqrt(num_tokens), 0, -1) if image_size % side == 0)
    return 0 < num_tokens - side * side <= side


def has_image_size(config: PreTrainedConfig, image_size: int) -> bool:
    """Return whether a model is made for square images of a size, or names no size."""
    size = getattr(config, "image_size", None)
    return size is None or tuple(pair(size)) == (image_size, image_size)


def set_image_size(config: PreTrainedConfig, image_size: int) -> None:
    """Set a config's image size, in the form in which the family keeps it."""
    is_pair = isinstance(getattr(config, "image_size", None), Sequence)
    config.image_size = [image_size, image_size] if is_pair else image_size


def patch_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the height and width of an image, patches."""
    height, width = pair(config.image_size)
    patch_height, patch_width = pair(config.patch_size)
    return height // patch_height, width // patch_width


def pair(size: int | Sequence[int]) -> Sequence[int]:
    """Return a size as height and width."""
    return (size, size) if isinstance(size, int) else size
