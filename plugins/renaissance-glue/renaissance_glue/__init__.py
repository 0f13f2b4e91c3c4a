"""GLUE: what a text encoder has learned about language (Wang et al., "GLUE", ICLR 2019)."""

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
    from renaissance_glue.dataset import Glue

    register("glue", Glue)


@hookimpl
def register_objectives(register: Callable[[str, type[Objective]], None]) -> None:
    """Register the objective."""
    # Imported here: listing sources does without torch.
    from renaissance_glue.objective import GlueObjective

    register("glue", GlueObjective)
