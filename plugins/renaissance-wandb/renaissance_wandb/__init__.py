"""Sends runs to Weights & Biases."""

from collections.abc import Callable

from renaissance import Monitor, hookimpl
from renaissance_wandb.monitor import WandB

# The version of the plugin interface that this package is written for.
renaissance_api = 1


@hookimpl
def register_monitors(register: Callable[[str, type[Monitor]], None]) -> None:
    """Register the monitor."""
    register("wandb", WandB)
