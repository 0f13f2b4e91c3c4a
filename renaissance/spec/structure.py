"""From tables to the classes of `sections`: strict, and with all faults at once.

Strict means that nothing is converted: 3.7 is no integer, "false" and 0 are no booleans. The one
exception is that an integer serves where a number is expected.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import StructureHandlerNotFoundError

from renaissance.errors import PluginError, SpecError, did_you_mean
from renaissance.plugins.loading import Plugins
from renaissance.plugins.registry import Registration
from renaissance.spec.checks import check_section
from renaissance.spec.describe import (
    alternatives,
    default_of,
    describe_field,
    describe_literal,
    describe_type,
    describe_value,
    is_literal,
    is_mapping,
    is_sequence,
    is_union,
)
from renaissance.spec.faults import Faults, FaultsError, show_path
from renaissance.spec.layers import Layers, slot_keys
from renaissance.spec.sections import ComponentSpec, RunSpec


def structure_spec(layers: Layers, plugins: Plugins) -> RunSpec:
    """Return the run spec that the layers make.

    Raises:
        SpecError: With every fault: its file, its key path, what was found, what is expected.
        PluginError: If a component declares options that cannot be written in TOML.
    """
    faults = Faults()
    faults.found += layers.faults
    structurer = _Structurer(plugins)
    with faults.collect():
        spec: RunSpec = structurer.structure(layers.table)
    if not faults.found:
        return spec
    lines = [f"{layers.origin(path)}: {show_path(path)}: {text}" for path, text in faults.found]
    if structurer.has_unknown and plugins.broken:
        failed = "; ".join(map(str, plugins.broken))
        lines.append(f"or mend or uninstall the plugins that failed to load: {failed}")
    raise SpecError(*lines)


class _Structurer:
    """A cattrs converter with strict hooks.

    Attributes:
        has_unknown: Whether a component was unknown, perhaps for its plugin failed to load.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.has_unknown = False
        self._plugins = plugins
        self._converter = converter = Converter()
        for plain in (bool, int, str):
            converter.register_structure_hook(plain, _structure_exactly)
        converter.register_structure_hook(float, _structure_number)
        converter.register_structure_hook(Path, _structure_path)
        # Of several hooks that fit, cattrs takes the one registered last.
        for fits, structure in (
            (attrs.has, self._structure_table),
            (_is_component, self._structure_component),
            (is_literal, _structure_literal),
            (is_sequence, self._structure_sequence),
            (is_mapping, self._structure_dict),
            (is_union, self._structure_union),
        ):
            converter.register_structure_hook_func(fits, structure)

    def structure(self, table: Mapping[str, Any]) -> RunSpec:
        """Structure a whole run spec, or raise FaultsError."""
        # Sections that are absent are checked as well.
        fields = attrs.fields(RunSpec)
        empty: dict[str, Any] = {
            field.name: {} for field in fields if describe_type(field.type) == "table"
        }
        spec: RunSpec = self._structure_table({**empty, **table}, RunSpec)
        return spec

    def _structure_table(self, table: Any, section: type[Any]) -> Any:
        _require(dict, table, section)
        faults = Faults()
        fields = attrs.fields(attrs.resolve_types(section))
        what = "section" if section is RunSpec else "key"
        _refuse_unknown(table, [field.name for field in fields], what, faults)
        draft = self._draft(section, fields, table, faults)
        with faults.collect():
            check_section(draft, self._plugins)
        faults.raise_any()
        with faults.collect():
            return section(**{field.alias: getattr(draft, field.name) for field in fields})
        raise FaultsError(faults.found)

    def _draft(
        self,
        section: type[Any],
        fields: Sequence["attrs.Attribute[Any]"],
        table: Mapping[str, Any],
        faults: Faults,
    ) -> Any:
        """Return an instance with all values that are right; those at fault are no attributes.

        Validators are handed an instance, and one fault must not keep the others silent.
        """
        draft = object.__new__(section)
        for field in fields:
            if field.name in table:
                with faults.collect(field.name):
                    value = self._structure(table[field.name], field, section)
                    object.__setattr__(draft, field.name, value)
            elif field.default is attrs.NOTHING:
                faults.add(f"missing, expected {describe_field(field)}", field.name)
            else:
                object.__setattr__(draft, field.name, default_of(field))
        for field in fields:
            if field.validator is not None and hasattr(draft, field.name):
                before = len(faults.found)
                # A validator that looks at another value, one at fault, has its say next time.
                with faults.collect(field.name), contextlib.suppress(AttributeError):
                    field.validator(draft, field, getattr(draft, field.name))
                if len(faults.found) > before:
                    object.__delattr__(draft, field.name)
        return draft

    def _structure(self, value: Any, field: "attrs.Attribute[Any]", section: type[Any]) -> Any:
        try:
            return self._converter.structure(value, field.type)  # type: ignore[arg-type]
        except StructureHandlerNotFoundError as error:
            raise PluginError(
                f"{section.__qualname__}.{field.name}: an option of type {field.type} cannot be "
                "written in TOML; use bool, int, float, str, Literal, tuple, dict, or a nested "
                "attrs class"
            ) from error

    def _structure_component(self, table: Any, section: type[ComponentSpec]) -> ComponentSpec:
        _require(dict, table, section)
        faults = Faults()
        slots = slot_keys(section)
        fields = [field for field in attrs.fields(section) if field.name in slots]
        draft = self._draft(section, fields, table, faults)
        registration = self._find(section, table, faults)
        options = None
        if registration is not None:
            names = option_names(registration, slots)
            what = f"option of {section.kind} '{registration.name}'"
            _refuse_unknown(table, ["type", *slots, *names], what, faults)
            with faults.collect():
                own = {name: table[name] for name in names if name in table}
                options = self._structure_table(own, registration.component.Options)
        faults.raise_any()
        slot_values = {name: getattr(draft, name) for name in slots}
        return section(type=table["type"], options=options, **slot_values)

    def _find(
        self, section: type[ComponentSpec], table: Mapping[str, Any], faults: Faults
    ) -> Registration | None:
        registry = self._plugins.registry
        name = table.get("type")
        found = registry.find(section.kind, name) if isinstance(name, str) else None
        if "type" not in table:
            known = ", ".join(registry.names(section.kind)) or "none"
            faults.add(f"missing, expected the name of a component; known: {known}", "type")
        elif found is None:
            self.has_unknown = True
            faults.add(registry.unknown(section.kind, name), "type")
        return found

    def _structure_union(self, value: Any, union: Any) -> Any:
        # The type as written goes first: `int | float` keeps 100 an integer, 100.0 a number.
        members = sorted(alternatives(union), key=lambda member: member is not type(value))
        if len(members) == 1:
            return self._converter.structure(value, members[0])
        for member in members:
            with contextlib.suppress(FaultsError, ValueError, TypeError):
                return self._converter.structure(value, member)
        raise _mismatch(value, union)

    def _structure_sequence(self, value: Any, annotation: Any) -> Any:
        _require(list, value, annotation)
        faults = Faults()
        arguments = get_args(annotation)
        if get_origin(annotation) is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise _mismatch(value, annotation)
        else:
            arguments = arguments[:1] * len(value)
        entries = []
        for index, (entry, argument) in enumerate(zip(value, arguments, strict=True)):
            with faults.collect(index):
                entries.append(self._converter.structure(entry, argument))
        faults.raise_any()
        return entries if get_origin(annotation) is list else tuple(entries)

    def _structure_dict(self, value: Any, annotation: Any) -> dict[str, Any]:
        _require(dict, value, annotation)
        faults = Faults()
        argument = (get_args(annotation) or (str, Any))[1]
        entries = {}
        for key, entry in value.items():
            with faults.collect(key):
                entries[key] = self._converter.structure(entry, argument)
        faults.raise_any()
        return entries


def _is_component(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, ComponentSpec)


def _refuse_unknown(
    table: Mapping[str, Any], known: Sequence[str], what: str, faults: Faults
) -> None:
    for key in table:
        if key not in known:
            names = ", ".join(known) or "none"
            faults.add(f"unknown {what}; known: {names}{did_you_mean(key, known)}", key)


def option_names(registration: Registration, slots: Sequence[str]) -> list[str]:
    """Return the names of a component's options.

    Args:
        registration: The component.
        slots: Keys of the place where it stands.

    Raises:
        PluginError: If an option has the name of a key of the place.
    """
    names = [field.name for field in attrs.fields(registration.component.Options)]
    for name in names:
        if name in ("type", *slots):
            raise PluginError(
                f"{registration.distribution} {registration.version}: {registration.kind} "
                f"'{registration.name}': its option '{name}' has the name of a key that every "
                f"{registration.kind} table has ({', '.join(('type', *slots))}); rename the option"
            )
    return names


def _structure_exactly(value: Any, expected: type[Any]) -> Any:
    if type(value) is not expected:
        raise _mismatch(value, expected)
    return value


def _structure_number(value: Any, expected: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _mismatch(value, expected)
    return float(value)


def _structure_path(value: Any, expected: Any) -> Path:
    _require(str, value, expected)
    return Path(value)


def _structure_literal(value: Any, literal: Any) -> Any:
    for allowed in get_args(literal):
        if type(value) is type(allowed) and value == allowed:
            return value
    hint = did_you_mean(value, [str(allowed) for allowed in get_args(literal)])
    raise ValueError(f"got {describe_literal(value)}, expected {describe_type(literal)}{hint}")


def _require(expected: type[Any], value: Any, annotation: Any) -> None:
    if not isinstance(value, expected):
        raise _mismatch(value, annotation)


def _mismatch(value: Any, annotation: Any) -> ValueError:
    text = f"got {describe_value(value)}, expected {describe_type(annotation)}"
    if annotation is bool:
        text += ": true or false"
    elif isinstance(value, dict) and describe_type(annotation) == "array of tables":
        text += ": write its header in double brackets, [[...]]"
    elif annotation is str and isinstance(value, (int, float)):
        text += f': put it in quotes, "{describe_literal(value)}"'
    return ValueError(text)
