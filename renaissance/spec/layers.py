"""Layers of a run spec: TOML tables merged in order, with a record of which file set each key."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from renaissance.spec.architectures import ARCHITECTURES, NO_FUSION
from renaissance.spec.choice import Choice, EncoderChoice, shared_keys
from renaissance.spec.describe import Table, table_class
from renaissance.spec.faults import Fault, KeyPath
from renaissance.spec.sections import ModelSection, RunSpec

# The origin of settings that are not in a file.
COMMAND_LINE = "command line"
# Two ways to define an encoder. TOML cannot unset a key, so setting one of them removes the other.
SOURCE_KEYS = frozenset({"checkpoint", "architecture"})


# What a table is merged into: a table, or a list whose entries it changes by index.
Lower: TypeAlias = dict[Any, Any] | list[Any]
Upper: TypeAlias = Mapping[Any, Any]


class Layers:
    """The tables merged so far.

    Tables merge key by key; everything else, including arrays of tables, is replaced as a whole.
    A layer that chooses another component drops the options of the previous one, which were meant
    for that one, and keeps the shared keys (`frozen`, `weight`). Likewise, another `model.type`
    drops the parts of the previous architecture, and an encoder's `checkpoint` drops the
    `architecture` of a lower layer, or vice versa, along with its `config`. A layer without fusion
    drops the pooler.

    Attributes:
        table: The result.
        faults: Indices that are out of range.
        records: Origins that are records of runs, or were named by one: the user did not write
            what they say.
    """

    def __init__(self, name: str, records: Iterable[str] = ()) -> None:
        self.table: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.records = frozenset(records)
        self._origins: dict[KeyPath, str] = {(): name}

    def add(self, table: Table, origin: str) -> None:
        """Merge a table over the others.

        Args:
            table: As read from TOML. A table whose keys are integers changes those entries of a
                list (`objectives.0.weight`).
            origin: Where it comes from: a file name or `COMMAND_LINE`.
        """
        self._merge(self.table, table, RunSpec, (), origin)

    def origin(self, path: KeyPath) -> str:
        """Return the layer that set a key or, failing that, the nearest table around it."""
        while path not in self._origins:
            path = path[:-1]
        return self._origins[path]

    def _merge(
        self, old: Lower, new: Upper, section: type | None, path: KeyPath, origin: str
    ) -> None:
        """Merge `new` into `old`, a table or a list, which `section` describes."""
        if isinstance(old, dict):
            for key in _stale_keys(old, new, section):
                del old[key]
                self._forget((*path, key))
        for key, value in new.items():
            here = (*path, key)
            if isinstance(old, list) and key >= len(old):
                self._origins[here] = origin
                self.faults.append(Fault(here, f"there are {len(old)} entries, counted from 0"))
                continue
            below = old[key] if isinstance(old, list) else old.get(key)
            inner = section if isinstance(old, list) else _section_of(section, key)
            if isinstance(value, dict) and isinstance(below, list) and _are_indices(value):
                entries = {int(index): entry for index, entry in value.items()}
                self._merge(below, entries, inner, here, origin)
            elif isinstance(value, dict) and isinstance(below, dict):
                self._merge(below, value, inner, here, origin)
            else:
                self._forget(here)
                old[key] = value
                self._origins[here] = origin

    def _forget(self, path: KeyPath) -> None:
        """Forget where the keys at and below a path came from."""
        for known in [known for known in self._origins if known[: len(path)] == path]:
            del self._origins[known]


def _stale_keys(old: Table, new: Table, section: type | None) -> list[str]:
    """Return the keys of `old` that another choice in `new` makes meaningless."""
    if section is None:
        return []
    if issubclass(section, Choice):
        former = old.get("type", section.default_type)
        if former is not None and former != new.get("type", former):
            return [key for key in old if key not in (*shared_keys(section), "type")]
        chosen = SOURCE_KEYS & new.keys()
        other = SOURCE_KEYS - chosen
        if section is EncoderChoice and len(chosen) == 1 and other & old.keys():
            return [key for key in old if key in {*other, "config"}]
        return []
    if section is ModelSection and "type" in new:
        former = old.get("type", attrs.fields(ModelSection).type.default)
        if former != new["type"]:
            # A value of another type, such as a list, is reported later.
            is_known = isinstance(former, str) and former in ARCHITECTURES
            tables = ARCHITECTURES[former].tables if is_known else ()
            return [key for key in old if key in tables]
    if section is ModelSection and _is_no_fusion(new.get("fusion")):
        return [key for key in old if key == "pooler"]
    return []


def _is_no_fusion(table: object) -> bool:
    return isinstance(table, Mapping) and table.get("type") == NO_FUSION


def _section_of(section: type | None, key: str) -> type | None:
    """Return the class that describes the table or the list of tables under a key."""
    if section is None or key not in attrs.fields_dict(section):
        return None
    return table_class(attrs.fields_dict(section)[key].type)


def _are_indices(table: Table) -> bool:
    return bool(table) and all(key.isdecimal() for key in table)
