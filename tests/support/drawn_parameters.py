"""Random parameters that are the same with every release of torch and transformers.

How libraries draw initial parameters, and in which order, changes between their releases. The
streams of NumPy's old generator do not.
"""

import contextlib
import zlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

# Any text; with this one, the models of the chain predict different things for different samples.
SALT = "f"


def draw_parameters(module: nn.Module, std: float) -> None:
    """Draw every parameter that is not constant again, by its name."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if (parameter != parameter.flatten()[0]).any():
                parameter.copy_(_drawn(name, parameter, std))


@contextlib.contextmanager
def initialization_by_numpy() -> Iterator[None]:
    """Let `nn.init` draw by torch's seed and the shape of the parameter."""

    def draw(parameter: Tensor, mean: float = 0.0, std: float = 1.0, **_: object) -> Tensor:
        key = f"{torch.initial_seed()} {tuple(parameter.shape)}"
        with torch.no_grad():
            return parameter.copy_(mean + _drawn(key, parameter, std))

    with mock.patch.multiple(nn.init, normal_=draw, trunc_normal_=draw):
        yield


def _drawn(key: str, parameter: Tensor, std: float) -> Tensor:
    generator = np.random.RandomState(zlib.crc32(f"{key}{SALT}".encode()))
    return torch.from_numpy(std * generator.standard_normal(tuple(parameter.shape)))
