"""The first-party plugin: every built-in component, registered through the public hooks."""

from collections.abc import Callable
from typing import Any

from renaissance import hookimpl

Register = Callable[[str, type[Any]], None]
