"""Names and values as MLflow takes them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUE_LENGTH = 6000
ELLIPSIS = "…"


def allowed_name(name: str) -> str:
    """Return a name with `_` in place of the characters that MLflow does not allow in names."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)


def parameters_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return a run spec's values as MLflow's parameters, named by their path with dots.

    A value that is longer than MLflow allows is cut.
    """
    return {allowed_name(path): _shortened(text) for path, text in _flattened(spec)}


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    start = f"{path}." if path else ""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(inner, f"{start}{key}")
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flattened(inner, f"{start}{index}")
    else:
        # Texts as they are; everything else as TOML spells it, too.
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def _shortened(text: str) -> str:
    if len(text) <= MAX_VALUE_LENGTH:
        return text
    return text[: MAX_VALUE_LENGTH - len(ELLIPSIS)] + ELLIPSIS
