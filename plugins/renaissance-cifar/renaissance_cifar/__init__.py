"""CIFAR-10 (Krizhevsky, 2009), and an objective that classifies images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renaissance import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from renaissance import Dataset, Objective

# The version of the plugin interface for which this package is written.
renaissance_api = 1


@hookimpl
def register_datasets(register: Callable[[str, type[Dataset]], None]) -> None:
    """Register the dataset."""
    # Imported here: listing sources does without torch.
    from renaissance_cifar.dataset import CIFAR10

    register("cifar10", CIFAR10)


@hookimpl
def register_objectives(register: Callable[[str, type[Objective]], None]) -> None:
    """Register the objective."""
    # Imported here: listing sources does without torch.
    from renaissance_cifar.objective import ImageClassification

    register("image-classification", ImageClassification)
