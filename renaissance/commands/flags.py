"""Command-line flags for a component's `Options`."""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs
import typer
from attrs import AttrsInstance
from rich.markup import escape

from renaissance.limits import MOST_NESTING, MOST_RECORD_BYTES
from renaissance.options import Field

# Flags of several commands.
MaxImagePixels = Annotated[int, typer.Option(min=1, help="Largest image, in pixels.")]
MaxImageBytes = Annotated[int, typer.Option(min=1, help="Largest image file, in bytes.")]
MaxRecordBytes = Annotated[
    int,
    typer.Option(
        min=1, max=MOST_RECORD_BYTES, help="Largest line, JSON value, or text in a tar, in bytes."
    ),
]
MaxNesting = Annotated[
    int,
    typer.Option(min=1, max=MOST_NESTING, help="Deepest nesting of lists and objects in JSON."),
]
MaxTarMembers = Annotated[int, typer.Option(min=1, help="Most files in a tar.")]

PLAIN_TYPES = (bool, int, float, str, Path)


def unfit_option(options: type[AttrsInstance], taken: Collection[str]) -> str | None:
    """Return which option cannot be a flag and why, or None if all can.

    Args:
        options: The `Options` of a component.
        taken: Names that the command already uses.
    """
    for field in attrs.fields(attrs.resolve_types(options)):
        if field.name in taken:
            return (
                f"the option '{field.name}' has the name of a flag that the command already has "
                f"({', '.join(map(flag_name, taken))}); rename the option"
            )
        if _command_line_type(field.type) is None:
            return (
                f"the option '{field.name}' is of type {field.type}, which cannot be given on the "
                "command line; use bool, int, float, str, Path, Literal of strings, a tuple such "
                "as tuple[str, ...], or one of these with None"
            )
    return None


def flags_of(options: type[AttrsInstance], panel: str) -> list[inspect.Parameter]:
    """Return options as parameters of a typer command.

    `min_count: int = option(9, help=...)` becomes `--min-count`; the flag of a tuple may be given
    several times.

    Args:
        options: The `Options` of a component, all of which can be flags.
        panel: Heading of the flags in `--help`.
    """
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                _command_line_type(field.type),
                typer.Option(help=escape(field.metadata["help"]), rich_help_panel=panel),
            ],
            default=_default(field),
        )
        for field in attrs.fields(attrs.resolve_types(options))
    ]


def options_from(options: type[AttrsInstance], values: Mapping[str, object]) -> AttrsInstance:
    """Make options from the values of flags.

    Raises:
        typer.BadParameter: If a validator rejects one; the message names its flag.
    """
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    make: Callable[..., AttrsInstance] = options
    with attrs.validators.disabled():
        instance = make(**given)
    # One by one, since attrs does not say which of them failed.
    for field in attrs.fields(options):
        if field.validator is not None:
            try:
                field.validator(instance, field, given[field.name])
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint=flag_name(field.name)) from error
    return instance


def flag_name(option: str) -> str:
    """Return the flag of an option: `--min-count` for min_count."""
    return f"--{option.replace('_', '-')}"


def _default(field: Field) -> Any:
    default: Any = field.default
    if default is attrs.NOTHING:
        return inspect.Parameter.empty
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    return list(default) if isinstance(default, tuple) else default


def _command_line_type(annotation: object) -> Any:
    """Return typer's type for an option; None if there is none."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        inner = _command_line_type(kinds[0]) if len(kinds) == 1 else None
        return None if inner is None else inner | None
    if get_origin(annotation) is tuple:
        item, *rest = get_args(annotation)
        is_plain = rest == [Ellipsis] and item in PLAIN_TYPES
        return list[item] if is_plain else None  # type: ignore[valid-type]
    if get_origin(annotation) is Literal:
        return annotation if all(isinstance(name, str) for name in get_args(annotation)) else None
    return annotation if annotation in PLAIN_TYPES else None
