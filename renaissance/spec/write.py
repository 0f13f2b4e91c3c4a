"""From a run spec back to TOML, with every default written out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from renaissance.spec.layers import slot_keys
from renaissance.spec.sections import ComponentSpec, RunSpec


def spec_to_toml(spec: RunSpec) -> str:
    """Return the resolved spec as TOML: reading it gives an equal spec.

    Keys whose value is None are left out, for TOML has no such value.
    """
    return tomli_w.dumps(spec_tables(spec))


def spec_tables(spec: RunSpec) -> dict[str, Any]:
    """Return the resolved spec as nested tables, as `spec_to_toml` writes them."""
    tables: dict[str, Any] = _to_toml(spec)
    return tables


def _to_toml(value: Any) -> Any:
    if isinstance(value, ComponentSpec):
        slots = {name: getattr(value, name) for name in slot_keys(type(value))}
        return {"type": value.type, **_without_none(slots), **_to_toml(value.options)}
    if attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
        return _without_none({name: getattr(value, name) for name in names})
    if isinstance(value, Mapping):
        return _without_none(value)
    if isinstance(value, (tuple, list)):
        return [_to_toml(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _to_toml(value) for key, value in table.items() if value is not None}
