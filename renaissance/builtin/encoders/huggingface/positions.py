"""Position tables fitted to another image size or text length, once, when weights are loaded.

Resized tables are trained at the run's size and cost nothing a step, unlike interpolation in
every forward pass. The rules are those that the library's models themselves interpolate by.
"""

from copy import deepcopy
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedModel

from renaissance.builtin.encoders.huggingface.building import build_model
from renaissance.builtin.encoders.huggingface.sizes import patch_grid

# From the class token, to the class token, and from the class token to itself.
NUM_CLASS_DISTANCES = 3


def resize_positions(where: str, model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Return the model with its position tables interpolated to an image size.

    A model of the new size is built and given the weights, so that whatever else a family derives
    from the image size is right as well. Position tables are the tensors whose shape differs.
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
    name: str, table: Tensor, own: Tensor, grid: tuple[int, int]
) -> Tensor | None:
    """Return a position table interpolated from another image size; None if it is none.

    Args:
        name: Its name in the state dict.
        table: As it is for the other size, (..., rows, dim).
        own: As it is for this size, (..., own rows, dim).
        grid: Height and width of an image of this size in patches.
    """
    old = _old_grid(table.shape[-2], own.shape[-2], grid) if _is_table(name, table, own) else None
    return None if old is None else _resize_table(table, old, grid)


def resized_text_table(name: str, table: Tensor, own: Tensor) -> Tensor | None:
    """Return a table of learned text positions for another length; None if it is none.

    Positions that the table does not have keep the values that they have here.

    Args:
        name: Its name in the state dict.
        table: As it is for the other length, (positions, dim).
        own: As it is for this length, (own positions, dim).
    """
    if not _is_table(name, table, own):
        return None
    num_common = min(len(table), len(own))
    resized = own.clone()
    resized[:num_common] = table[:num_common]
    return resized


def _is_table(name: str, table: Tensor, own: Tensor) -> bool:
    return (
        "position" in name
        and table.dim() >= 2
        and table.shape[:-2] == own.shape[:-2]
        and table.shape[-1] == own.shape[-1]
    )


def _old_grid(num_rows: int, num_own_rows: int, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid that a table is for, given the rows that this grid makes."""
    own_distances = _distances(grid)
    if num_own_rows == prod(own_distances) + NUM_CLASS_DISTANCES:
        distances = _scaled(own_distances, num_rows - NUM_CLASS_DISTANCES)
        return distances and ((distances[0] + 1) // 2, (distances[1] + 1) // 2)
    num_special = num_own_rows - prod(grid)
    return _scaled(grid, num_rows - num_special) if num_special >= 0 else None


def _scaled(sides: tuple[int, int], area: int) -> tuple[int, int] | None:
    """Return sides of the same proportions with another area, if there are any."""
    scale = sqrt(max(area, 0) / prod(sides))
    scaled = round(sides[0] * scale), round(sides[1] * scale)
    return scaled if area > 0 and prod(scaled) == area else None


def _resize_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    old_distances, new_distances = _distances(old), _distances(new)
    if table.shape[-2] == prod(old_distances) + NUM_CLASS_DISTANCES:
        # BEiT: one row a distance between two patches, then rows for the class token.
        return torch.cat(
            [
                _resize_rows(
                    table[:-NUM_CLASS_DISTANCES], old_distances, new_distances, "bilinear"
                ),
                table[-NUM_CLASS_DISTANCES:],
            ]
        )
    # ViT and the rest: rows for class, distillation and register tokens, then one row a patch.
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
