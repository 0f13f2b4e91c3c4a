"""Sends runs to MLflow."""

from collections.abc import Callable

from renaissance import Monitor, hookimpl
from renaissance_mlflow.monitor import MLflow

# The version of the plugin interface that this package is written for.
renaissance_api = 1


@hookimpl
def register_monitors(register: Callable[[str, type[Monitor]], None]) -> None:
    """Register the monitor."""
    register("mlflow", MLflow)
