"""Layers of a run spec: several TOML tables laid over each other, remembering who said what."""

from collections.abc import Mapping
from typing import Any

import attrs

from renaissance.spec.describe import table_class
from renaissance.spec.faults import Fault, KeyPath
from renaissance.spec.sections import ComponentSpec, EncoderSpec, ModelSection, RunSpec

# What only one architecture has: it goes when a later layer chooses the other.
ARCHITECTURE_KEYS = {
    "two-tower": frozenset({"text_encoder", "image_encoder", "fusion"}),
    "one-tower": frozenset({"encoder"}),
}
# Two ways to say what an encoder is made of; TOML cannot unset the one to choose the other.
SOURCE_KEYS = frozenset({"checkpoint", "architecture"})


class Layers:
    """The tables laid over each other so far.

    Tables merge key by key; everything else, arrays of tables too, is replaced as a whole.
    Where a layer chooses another component, the options of the former one go (they were meant
    for it), and the keys of the place stay (`frozen`, `weight`); likewise another `model.type`
    takes away the parts of the former architecture, and an encoder's `checkpoint` the
    `architecture` of a lower layer, or the reverse, with the `config` that was meant for it.

    Attributes:
        table: The result.
        faults: Indices that no list has.
    """

    def __init__(self, name: str) -> None:
        self.table: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self._origins: dict[KeyPath, str] = {(): name}

    def add(self, table: Mapping[str, Any], origin: str) -> None:
        """Lay a table over the others.

        Args:
            table: As read from TOML. A table of whole numbers laid over a list changes those
                entries of the list (`objectives.0.weight`).
            origin: Where it is from: a file name or "command line".
        """
        self._merge(self.table, table, RunSpec, (), origin)

    def origin(self, path: KeyPath) -> str:
        """Return the layer that a key, or else the nearest table around it, is from."""
        while path not in self._origins:
            path = path[:-1]
        return self._origins[path]

    def _merge(
        self, old: Any, new: Mapping[Any, Any], section: type | None, path: KeyPath, origin: str
    ) -> None:
        """Lay `new` over `old`, a table or a list, which `section` describes."""
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
        """Forget who said what at and below a path."""
        for known in [known for known in self._origins if known[: len(path)] == path]:
            del self._origins[known]


def slot_keys(section: type[ComponentSpec]) -> tuple[str, ...]:
    """Return the keys of the place: fields beside `type` and `options`."""
    names = [field.name for field in attrs.fields(section)]
    return tuple(name for name in names if name not in ("type", "options"))


def _stale_keys(old: Mapping[str, Any], new: Mapping[str, Any], section: type | None) -> list[str]:
    """Return the keys of `old` that another choice in `new` makes meaningless."""
    if section is None:
        return []
    if issubclass(section, ComponentSpec):
        if "type" in old and old["type"] != new.get("type", old["type"]):
            return [key for key in old if key not in (*slot_keys(section), "type")]
        chosen = SOURCE_KEYS & new.keys()
        other = SOURCE_KEYS - chosen
        if section is EncoderSpec and len(chosen) == 1 and other & old.keys():
            return [key for key in old if key in {*other, "config"}]
        return []
    if section is ModelSection and "type" in new:
        former = old.get("type", attrs.fields(ModelSection).type.default)
        if former != new["type"]:
            return [key for key in old if key in ARCHITECTURE_KEYS.get(former, ())]
    return []


def _section_of(section: type | None, key: str) -> type | None:
    """Return the class that describes the table or the list of tables under a key."""
    if section is None or key not in attrs.fields_dict(section):
        return None
    return table_class(attrs.fields_dict(section)[key].type)


def _are_indices(table: Mapping[str, Any]) -> bool:
    return bool(table) and all(key.isdecimal() for key in table)
