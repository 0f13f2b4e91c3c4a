"""Turn tables into the classes of `sections`: strictly, and with all faults at once.

Strictly means that values are not converted: 3.7 is not an integer, "false" and 0 are not booleans.
The one exception is that an integer is accepted where a number is expected.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import attrs
from attrs import AttrsInstance
from cattrs import Converter
from cattrs.errors import StructureHandlerNotFoundError

from renaissance.errors import PluginError, SpecError, did_you_mean
from renaissance.plugins.loading import Plugins
from renaissance.plugins.registry import Registration
from renaissance.spec.checks import check_section
from renaissance.spec.choice import Choice, shared_keys
from renaissance.spec.describe import (
    Annotation,
    Field,
    Table,
    alternatives,
    default_of,
    describe_field,
    describe_type,
    is_literal,
    is_mapping,
    is_sequence,
    is_union,
    table_class,
)
from renaissance.spec.faults import Faults, FaultsError, show_path
from renaissance.spec.layers import Layers
from renaissance.spec.sections import RunSpec
from renaissance.spec.values import (
    mismatch,
    require,
    structure_any,
    structure_exactly,
    structure_integer,
    structure_literal,
    structure_number,
    structure_path,
    structure_string,
)

T = TypeVar("T", bound=AttrsInstance)

# What to write in place of keys of older releases, by the section that had them.
REPLACED = {
    (RunSpec, "tensorboard"): "monitors are components now: write [[monitors]] with type = "
    '"tensorboard" beside the other monitors, or monitors = [] for none',
    ("transform", "name"): 'a transform is a component now: write type = "..." instead of name',
}


def structure_spec(layers: Layers, plugins: Plugins) -> RunSpec:
    """Turn the layers into a run spec.

    Raises:
        SpecError: With every fault: its file, its key path, the actual and the expected value.
        PluginError: If a component declares options that cannot be written in TOML.
    """
    structurer = _Structurer(plugins)
    faults = Faults()
    faults.entries += layers.faults
    with faults.collect():
        spec: RunSpec = structurer.structure(layers.table)
    if not faults.entries:
        return spec
    lines = _lines(faults, layers)
    if structurer.has_unknown and plugins.broken:
        failed = "; ".join(map(str, plugins.broken))
        lines.append(f"or fix or uninstall the plugins that failed to load: {failed}")
    raise SpecError(*lines)


def check_sections(layers: Layers) -> None:
    """Check what can be checked without loading components, which takes seconds.

    Raises:
        SpecError: With every fault of the sections' own keys.
    """
    faults = Faults()
    faults.entries += layers.faults
    with faults.collect():
        _Structurer(None).structure(layers.table)
    if faults.entries:
        raise SpecError(*_lines(faults, layers))


def structure_section(table: Table, section: type[T], where: str) -> T:
    """Turn the tables of another file than a run spec into its class, as strictly.

    Args:
        table: The tables.
        section: An attrs class whose fields are made by `option`.
        where: The file, for messages.

    Raises:
        SpecError: With every fault: the file, its key path, the actual and the expected value.
    """
    faults = Faults()
    with faults.collect():
        structured: T = _Structurer(None)._structure_table(table, section)
    if faults.entries:
        raise SpecError(*(f"{where}: {show_path(path)}: {text}" for path, text in faults.entries))
    return structured


def _lines(faults: Faults, layers: Layers) -> list[str]:
    return [f"{layers.origin(path)}: {show_path(path)}: {text}" for path, text in faults.entries]


class _Structurer:
    """A cattrs converter with strict hooks.

    Args:
        plugins: The components; None to check only the sections' own keys.

    Attributes:
        has_unknown: Whether a component was unknown, perhaps because its plugin failed to load.
    """

    def __init__(self, plugins: Plugins | None) -> None:
        self.has_unknown = False
        self._registry = None if plugins is None else plugins.registry
        self._converter = converter = Converter()
        converter.register_structure_hook(bool, structure_exactly)
        converter.register_structure_hook(str, structure_string)
        converter.register_structure_hook(int, structure_integer)
        converter.register_structure_hook(float, structure_number)
        converter.register_structure_hook(Path, structure_path)
        # Of several hooks that fit, cattrs takes the one registered last.
        for fits, structure in (
            (attrs.has, self._structure_table),
            (_is_choice, self._structure_choice),
            (is_literal, structure_literal),
            (lambda annotation: annotation is Any, structure_any),
            (is_sequence, self._structure_sequence),
            (is_mapping, self._structure_dict),
            (is_union, self._structure_union),
        ):
            converter.register_structure_hook_func(fits, structure)

    def structure(self, table: Table) -> RunSpec:
        """Structure a whole run spec, or raise FaultsError."""
        # Absent sections are checked as well.
        fields = attrs.fields(RunSpec)
        empty: dict[str, Any] = {
            field.name: {} for field in fields if describe_type(field.type) == "table"
        }
        spec: RunSpec = self._structure_table({**empty, **table}, RunSpec)
        return spec

    def _structure_table(self, value: object, section: type[AttrsInstance]) -> Any:
        table = require(dict, value, section)
        faults = Faults()
        fields = attrs.fields(attrs.resolve_types(section))
        what = "section" if section is RunSpec else "key"
        _refuse_unknown(table, [field.name for field in fields], what, section, faults)
        draft = self._draft(section, fields, table, faults)
        with faults.collect():
            check_section(draft, self._registry)
        self._derive(draft, fields, table, draft, faults)
        faults.raise_any()
        return _instance(section, {field: getattr(draft, field.name) for field in fields})

    def _draft(
        self,
        section: type[AttrsInstance],
        fields: Sequence[Field],
        table: Table,
        faults: Faults,
    ) -> Any:
        """Return an instance of the section with all valid values; invalid ones are left unset.

        Validators need an instance, and one fault must not hide the others.
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
                before = len(faults.entries)
                # A validator may read another value, which is unset if it was invalid.
                with faults.collect(field.name), contextlib.suppress(AttributeError):
                    field.validator(draft, field, getattr(draft, field.name))
                if len(faults.entries) > before:
                    object.__delattr__(draft, field.name)
        return draft

    def _derive(
        self,
        draft: AttrsInstance,
        fields: Sequence[Field],
        table: Table,
        origin: object,
        faults: Faults,
    ) -> None:
        """Set the absent keys of a draft whose default depends on other keys."""
        for field in fields:
            derive = field.metadata.get("derive")
            # What it depends on is unset if it was invalid, which has been reported.
            with faults.collect(field.name), contextlib.suppress(AttributeError):
                if derive is not None and field.name not in table:
                    implied = derive(origin)
                    if implied is not None:
                        value = self._structure(implied, field, type(draft))
                        object.__setattr__(draft, field.name, value)

    def _structure(self, value: object, field: Field, section: type[AttrsInstance]) -> Any:
        try:
            return self._converter.structure(value, field.type)  # type: ignore[arg-type]
        except StructureHandlerNotFoundError as error:
            raise PluginError(
                f"{section.__qualname__}.{field.name}: an option of type {field.type} cannot be "
                "written in TOML; use bool, int, float, str, Literal, tuple, dict, or a nested "
                "attrs class"
            ) from error

    def _structure_choice(self, value: object, section: type[Choice]) -> Choice:
        table = require(dict, value, section)
        faults = Faults()
        keys = shared_keys(section)
        all_fields = attrs.fields(attrs.resolve_types(section))
        fields = [field for field in all_fields if field.name in keys]
        draft: Choice = self._draft(section, fields, table, faults)
        registration = self._find(section, table, faults)
        options = None
        if registration is not None:
            names = [field.name for field in attrs.fields(registration.component.Options)]
            what = f"option of {section.kind} '{registration.name}'"
            _refuse_unknown(table, ["type", *keys, *names], what, section, faults)
            with faults.collect():
                given = {name: table[name] for name in names if name in table}
                options = self._structure_table(given, registration.component.Options)
            self._derive(draft, fields, table, registration, faults)
        faults.raise_any()
        for name, value in (("registration", registration), ("options", options)):
            object.__setattr__(draft, name, value)
        return draft

    def _find(self, section: type[Choice], table: Table, faults: Faults) -> Registration | None:
        registry = self._registry
        if registry is None:
            return None
        name = table.get("type", section.default_type)
        registration = registry.find(section.kind, name) if isinstance(name, str) else None
        if name is None:
            known = ", ".join(registry.names(section.kind)) or "none"
            faults.add(f"missing, expected the name of a component; known: {known}", "type")
        elif registration is None:
            self.has_unknown = True
            faults.add(registry.unknown(section.kind, name), "type")
        return registration

    def _structure_union(self, value: object, union: Annotation) -> Any:
        # The value's own type is tried first: for `int | float`, 100 stays an integer.
        members = sorted(alternatives(union), key=lambda member: member is not type(value))
        # Of several members, at most one describes a table: its faults are told one by one.
        if isinstance(value, dict):
            members = [member for member in members if table_class(member) is member] or members
        if len(members) == 1:
            return self._converter.structure(value, members[0])  # type: ignore[arg-type]
        for member in members:
            with contextlib.suppress(FaultsError, ValueError, TypeError):
                return self._converter.structure(value, member)  # type: ignore[arg-type]
        raise mismatch(value, union)

    def _structure_sequence(self, value: object, annotation: Annotation) -> Any:
        values = require(list, value, annotation)
        faults = Faults()
        arguments = get_args(annotation)
        if get_origin(annotation) is tuple and arguments[-1] is not Ellipsis:
            if len(values) != len(arguments):
                raise mismatch(value, annotation)
        else:
            arguments = arguments[:1] * len(values)
        entries = []
        for index, (entry, argument) in enumerate(zip(values, arguments, strict=True)):
            with faults.collect(index):
                entries.append(self._converter.structure(entry, argument))
        faults.raise_any()
        return entries if get_origin(annotation) is list else tuple(entries)

    def _structure_dict(self, value: object, annotation: Annotation) -> dict[str, Any]:
        table = require(dict, value, annotation)
        faults = Faults()
        argument = (get_args(annotation) or (str, Any))[1]
        entries = {}
        for key, entry in table.items():
            with faults.collect(key):
                entries[key] = self._converter.structure(entry, argument)
        faults.raise_any()
        return entries


def _is_choice(annotation: Annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Choice)


def _instance(section: type[AttrsInstance], values: Mapping[Field, object]) -> Any:
    # Validators have run on the draft; the converters of a plugin's options have not.
    with attrs.validators.disabled():
        return section(**{str(field.alias): value for field, value in values.items()})


def _refuse_unknown(
    table: Table, known: Sequence[str], what: str, section: type[AttrsInstance], faults: Faults
) -> None:
    for key in table:
        if key not in known and (getattr(section, "kind", section), key) in REPLACED:
            faults.add(REPLACED[getattr(section, "kind", section), key], key)
        elif key not in known:
            names = ", ".join(known) or "none"
            faults.add(f"unknown {what}; known: {names}{did_you_mean(key, known)}", key)
