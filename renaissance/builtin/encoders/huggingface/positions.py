"""Resizing position tables to another image size or text length, once, when weights are loaded.

Unlike interpolation in every forward pass, this costs nothing per step, and the tables are trained
at the run's size. The interpolation is the one that the library's models use themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from inspect import signature
from math import prod, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from renaissance import PluginError
from renaissance.builtin.encoders.huggingface.building import ModelClass, build_model
from renaissance.builtin.encoders.huggingface.image_input import image_form, image_states
from renaissance.builtin.encoders.huggingface.reasons import reason_of
from renaissance.builtin.encoders.huggingface.sizes import pair, patch_grid, set_image_size
from renaissance.builtin.encoders.huggingface.small_copy import random_model, small_config

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedConfig, PreTrainedModel

# Relative to the largest state: far above rounding errors, far below another interpolation.
TOLERANCE = 1e-4
# Distances from the class token, to it, and between it and itself.
NUM_CLASS_DISTANCES = 3


def find_antialias(
    where: str, config: PreTrainedConfig, model_class: ModelClass, image_size: int
) -> bool:
    """Find out how the library resizes a family's position tables, from a small copy.

    Args:
        where: Name of the encoder, with which messages begin.
        config: The config, with the image size that the tables are for.
        model_class: The model's class.
        image_size: The other image size.

    Returns:
        Whether tables are interpolated with antialiasing.

    Raises:
        PluginError: If the library cannot resize them, or does it in another way.
    """
    # The run's random weights must not depend on what is drawn here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        model = random_model(where, small_config(config), model_class)
        if not _differing(model, _of_size(where, model, image_size)):
            return False  # Nothing to resize.
        pixels = torch.linspace(-1, 1, 3 * image_size**2).sin().view(1, 3, image_size, image_size)
        takes_switch = "interpolate_pos_encoding" in signature(model_class.forward).parameters
        switch = {"interpolate_pos_encoding": True} if takes_switch else {}
        form = image_form(model)
        try:
            expected = image_states(model, pixels, form, **switch)
        # A family of a fixed size fails in any way.
        except Exception as error:
            cause = f"{type(error).__name__}: {reason_of(error)}"
            reason = f"the library cannot resize its positions ({cause})"
        else:
            reason = "the library resizes its positions in a way that is not known here"
            # Of some families, such as Hiera, the table has another grid than the patches.
            with suppress(RuntimeError):
                for antialias in (False, True):
                    resized = resize_positions(where, model, image_size, antialias)
                    if _is_close(image_states(resized, pixels, form), expected):
                        return antialias
    height, width = pair(config.image_size)
    is_square = height == width
    size = f"{height}" if is_square else f"{height} x {width}"
    raise PluginError(
        f"{where}: this {config.model_type!r} is made for images of {size} pixels, not "
        f"{image_size}: {reason}; {f'set data.image_size to {height}, or ' if is_square else ''}"
        "take random weights (random_init = true)"
    )


def antialias_of(
    where: str, model: PreTrainedModel, image_size: int
) -> Callable[[tuple[int, int]], bool]:
    """Return what tells of tables of another grid whether the library antialiases them.

    Args:
        where: Name of the encoder, with which messages begin.
        model: A model of the family, of the run's image size.
        image_size: That size, pixels.
    """

    def find(grid: tuple[int, int]) -> bool:
        config = deepcopy(model.config)
        set_image_size(config, grid[0] * image_size // patch_grid(config)[0])
        return find_antialias(where, config, type(model), image_size)

    return find


def resize_positions(
    where: str, model: PreTrainedModel, image_size: int, antialias: bool
) -> PreTrainedModel:
    """Return the model with its position tables interpolated to an image size.

    The weights are loaded into a new model of that size, so that everything else that a family
    derives from the image size is right, too. Position tables are the tensors whose shape differs.
    """
    resized = _of_size(where, model, image_size)
    state = model.state_dict()
    for name in _differing(model, resized):
        old, new = patch_grid(model.config), patch_grid(resized.config)
        state[name] = _resize_table(state[name], old, new, antialias)
    resized.load_state_dict(state)
    return resized


def _of_size(where: str, model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    config = deepcopy(model.config)
    set_image_size(config, image_size)
    return build_model(where, config, type(model))


def _differing(model: PreTrainedModel, resized: PreTrainedModel) -> list[str]:
    state = model.state_dict()
    return [n for n, tensor in resized.state_dict().items() if tensor.shape != state[n].shape]


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * scale)


def resized_image_table(
    name: str,
    table: Tensor,
    target: Tensor,
    grid: tuple[int, int],
    antialias: Callable[[tuple[int, int]], bool] = lambda grid: False,
) -> Tensor | None:
    """Interpolate a position table to this image size; None if it is not a position table.

    Args:
        name: Its name in the state dict.
        table: The table for another image size, (..., rows, dim).
        target: The table for this image size, (..., target rows, dim).
        grid: Height and width of an image of this size, patches.
        antialias: Returns whether tables of another grid are interpolated with antialiasing.
    """
    if not _is_table(name, table, target):
        return None
    old = _old_grid(table.shape[-2], target.shape[-2], grid)
    if old is None:
        return None
    # Asked only where it matters, since it builds a model.
    return _resize_table(table, old, grid, not _is_relative(table, old) and antialias(old))


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


def _resize_table(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], antialias: bool
) -> Tensor:
    old_distances, new_distances = _distances(old), _distances(new)
    if _is_relative(table, old):
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
    return torch.cat([special, _resize_rows(patches, old, new, "bicubic", antialias)], dim=-2)


def _is_relative(table: Tensor, grid: tuple[int, int]) -> bool:
    return table.shape[-2] == prod(_distances(grid)) + NUM_CLASS_DISTANCES


def _distances(grid: tuple[int, int]) -> tuple[int, int]:
    # From -(n - 1) to n - 1 in each direction.
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def _resize_rows(
    rows: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    mode: str,
    antialias: bool = False,
) -> Tensor:
    # (..., height * width, dim) -> (1, dim, height, width), and back
    picture = rows.reshape(1, *old, rows.shape[-1]).permute(0, 3, 1, 2)
    resized = interpolate(picture, size=new, mode=mode, align_corners=False, antialias=antialias)
    return resized.permute(0, 2, 3, 1).reshape(*rows.shape[:-2], prod(new), rows.shape[-1])
