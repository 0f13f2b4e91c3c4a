"""The exponential moving average of the parameters: `train.ema`.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim.
30, 1992. The average is part of the network's state, so checkpoints and resuming need no more.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Names of buffers have no dots.
DOT = "/"
PREFIX = "average."


class Average(nn.Module):
    """Averages the parameters of a network that are trained.

    Args:
        network: The network, whose child this must not be yet.
        decay: Share of the average that each step keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.register_buffer(name.replace(".", DOT), parameter.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the parameters of one step."""
        averages, parameters = self._pairs(network)
        torch._foreach_lerp_(averages, parameters, 1 - self.decay)

    @torch.no_grad()
    def restart(self, network: nn.Module) -> None:
        """Begin anew with the present parameters."""
        for average, parameter in zip(*self._pairs(network), strict=True):
            average.copy_(parameter)

    @torch.no_grad()
    def apply_to(self, network: nn.Module) -> None:
        """Give the network the average for its parameters."""
        for average, parameter in zip(*self._pairs(network), strict=True):
            parameter.copy_(average)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Give the network the average, and its own parameters back."""
        _, parameters = self._pairs(network)
        own = [parameter.clone() for parameter in parameters]
        self.apply_to(network)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, own, strict=True):
                    parameter.copy_(value)

    def _pairs(self, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        averages = {name.replace(DOT, "."): buffer for name, buffer in self.named_buffers()}
        named = dict(network.named_parameters())
        return list(averages.values()), [named[name].detach() for name in averages]


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors with the average, if it has one, in place of its parameters."""
    averages = {
        name.removeprefix(PREFIX).replace(DOT, "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    return own | averages
