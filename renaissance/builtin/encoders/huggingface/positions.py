"""Resizing position tables to another image size or text length, once, when weights are loaded.

Unlike interpolation in every forward pass, this costs nothing per step, and the tables are trained
at the run's size. The interpolation is the one that the library's models use themselves.
"""

from __future__ import annotations

from copy import deepcopy
from math import prod, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from renaissance.builtin.encoders.huggingface.building import build_model
from renaissance.builtin.encoders.huggingface.sizes import patch_grid

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

# Distances from the class token, to it, and between it and itself.
NUM_CLASS_DISTANCES = 3


def resize_positions(where: str, model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Return the model with its position tables interpolated to an image size.

    The weights are loaded into a new model of that size, so that everything else that a family
    derives from the image size is right, too. Position tables are the tensors whose shape differs.
    """
    if getattr(model.config, "image_size", image_size) == image_size:
        return model
    config = deepcopy(model.config)
    config.image_size = image_size
    resized = build_model(where, config, type(model))
    state = model.state_dict()
    for name, tensor in resized.state_dict().items():
        if tensor.shape != state[name].shape:
            state[name] = _resize_table(state[name], patch_grid(model.config), patch_grid(config))
    resized.load_state_dict(state)
    return resized


def resized_image_table(
    name: str, table: Tensor, target: Tensor, grid: tuple[int, int]
) -> Tensor | None:
    """Interpolate a position table to this image size; None if it is not a position table.

    Args:
        name: Its name in the state dict.
        table: The table for another image size, (..., rows, dim).
        target: The table for this image size, (..., target rows, dim).
        grid: Height and width of an image of this size, patches.
    """
    if not _is_table(name, table, target):
        return None
    old = _old_grid(table.shape[-2], target.shape[-2], grid)
    return None if old is None else _resize_table(table, old, grid)


def resized_text_table(name: str, table: Tensor, target: Tensor) -> Tensor | None:
    """Fit a table of learned text positions to this length; None if it is not a position table.

    Positions that the table lacks keep their values in `target`.

    Args:
        name: Its name in the state dict.
        table: The table for another length, (positions, dim).
        target: The table for this length, (target positions, dim).
    """
    if not _is_table(name, table, target):
        return None
    num_common = min(len(table), len(target))
    resized = target.clone()
    resized[:num_common] = table[:num_common]
    return resized


def _is_table(name: str, table: Tensor, target: Tensor) -> bool:
    return (
        "position" in name
        and table.dim() >= 2
        and table.shape[:-2] == target.shape[:-2]
        and table.shape[-1] == target.shape[-1]
    )


def _old_grid(num_rows: int, num_target_rows: int, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of a table, given the number of rows of the table for `grid`."""
    target_distances = _distances(grid)
    if num_target_rows == prod(target_distances) + NUM_CLASS_DISTANCES:
        distances = _scaled(target_distances, num_rows - NUM_CLASS_DISTANCES)
        return distances and ((distances[0] + 1) // 2, (distances[1] + 1) // 2)
    num_special = num_target_rows - prod(grid)
    return _scaled(grid, num_rows - num_special) if num_special >= 0 else None


def _scaled(sides: tuple[int, int], area: int) -> tuple[int, int] | None:
    """Return sides in the same proportion with another area, if there are any."""
    scale = sqrt(max(area, 0) / prod(sides))
    scaled = round(sides[0] * scale), round(sides[1] * scale)
    return scaled if area > 0 and prod(scaled) == area else None


def _resize_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    old_distances, new_distances = _distances(old), _distances(new)
    if table.shape[-2] == prod(old_distances) + NUM_CLASS_DISTANCES:
        # BEiT: one row per distance between two patches, then rows for the class token.
        return torch.cat(
            [
                _resize_rows(
                    table[:-NUM_CLASS_DISTANCES], old_distances, new_distances, "bilinear"
                ),
                table[-NUM_CLASS_DISTANCES:],
            ]
        )
    # ViT and others: rows for class, distillation and register tokens, then one row per patch.
    num_special = table.shape[-2] - prod(old)
    special, patches = table[..., :num_special, :], table[..., num_special:, :]
    return torch.cat([special, _resize_rows(patches, old, new, "bicubic")], dim=-2)


def _distances(grid: tuple[int, int]) -> tuple[int, int]:
    # From -(n - 1) to n - 1 in each direction.
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def _resize_rows(rows: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str) -> Tensor:
    # (..., height * width, dim) -> (1, dim, height, width), and back
    picture = rows.reshape(1, *old, rows.shape[-1]).permute(0, 3, 1, 2)
    resized = interpolate(picture, size=new, mode=mode, align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(*rows.shape[:-2], prod(new), rows.shape[-1])
