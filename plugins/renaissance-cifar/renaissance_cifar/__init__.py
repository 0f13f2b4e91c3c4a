"""CIFAR-10 (Krizhevsky, 2009), and an objective that classifies images."""

from collections.abc import Callable

from renaissance import Dataset, Objective, hookimpl
from renaissance_cifar.dataset import CIFAR10
from renaissance_cifar.objective import ImageClassification

# The version of the plugin interface for which this package is written.
renaissance_api = 1


@hookimpl
def register_datasets(register: Callable[[str, type[Dataset]], None]) -> None:
    """Register the dataset."""
    register("cifar10", CIFAR10)


@hookimpl
def register_objectives(register: Callable[[str, type[Objective]], None]) -> None:
    """Register the objective."""
    register("image-classification", ImageClassification)
