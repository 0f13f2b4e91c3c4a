"""GLUE: what a text encoder has learned about language (Wang et al., "GLUE", ICLR 2019)."""

from collections.abc import Callable

from renaissance import Dataset, Objective, hookimpl
from renaissance_glue.dataset import Glue
from renaissance_glue.objective import GlueObjective

# The version of the plugin interface for which this package is written.
renaissance_api = 1


@hookimpl
def register_datasets(register: Callable[[str, type[Dataset]], None]) -> None:
    """Register the dataset."""
    register("glue", Glue)


@hookimpl
def register_objectives(register: Callable[[str, type[Objective]], None]) -> None:
    """Register the objective."""
    register("glue", GlueObjective)
