"""From a run spec back to TOML, every default included."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from renaissance.files import is_hub_name
from renaissance.spec.choice import Choice, shared_keys
from renaissance.spec.describe import Table
from renaissance.spec.sections import RunSpec

# The one value of data.tokenizer that is neither a folder nor a hub id.
WORDS_OF_DATASET = "dataset"


def spec_to_toml(spec: RunSpec) -> str:
    """Return a spec as TOML: reading it gives an equal spec.

    Keys without a value are left out, since TOML has no None.
    """
    return tables_to_toml(spec_tables(spec))


def tables_to_toml(tables: Table) -> str:
    """Return nested tables as TOML."""
    return tomli_w.dumps(tables)


def spec_tables(spec: RunSpec) -> dict[str, Any]:
    """Return a spec as nested tables, as `spec_to_toml` writes them."""
    tables: dict[str, Any] = _to_toml(spec)
    return tables


def settings(tables: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key path, as on the command line, and the value of each key in nested tables."""
    if isinstance(tables, Mapping):
        for key, inner in tables.items():
            yield from settings(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(tables, list) and any(isinstance(inner, Mapping) for inner in tables):
        yield from settings(dict(enumerate(tables)), path)
    else:
        yield path, tables


def record_tables(spec: RunSpec) -> dict[str, Any]:
    """Return a spec as a run records it: with absolute paths, so that it is the same run wherever
    a command is started.

    What may also be a hub id is a path if there is such a folder.
    """
    tables = spec_tables(spec)
    run, model, data = tables["run"], tables["model"], tables["data"]
    folders = [(data, "root"), (data, "cache_folder")]
    if "init_from" in model and not is_hub_name(model["init_from"]):
        folders.append((model, "init_from"))
    for table, key in ((run, "output_dir"), *folders):
        if key in table:
            table[key] = str(Path(table[key]).absolute())
    parts = [part for part in model.values() if isinstance(part, dict)]
    names = [(part, "checkpoint") for part in parts if isinstance(part.get("checkpoint"), str)]
    if data.get("tokenizer", WORDS_OF_DATASET) != WORDS_OF_DATASET:
        names.append((data, "tokenizer"))
    for table, key in names:
        if os.path.isdir(table[key]):
            table[key] = str(Path(table[key]).absolute())
    return tables


def _to_toml(value: object) -> Any:
    if isinstance(value, Choice):
        keys = {name: getattr(value, name) for name in shared_keys(type(value))}
        return {"type": value.type, **_without_none(keys), **_to_toml(value.options)}
    section = type(value)
    if attrs.has(section):
        names = [field.name for field in attrs.fields(section)]
        return _without_none({name: getattr(value, name) for name in names})
    if isinstance(value, Mapping):
        return _without_none(value)
    if isinstance(value, (tuple, list)):
        return [_to_toml(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _without_none(table: Table) -> dict[str, Any]:
    return {key: _to_toml(value) for key, value in table.items() if value is not None}
