"""`renaissance data prepare`: a command for every source, with flags for its options."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, cast

import attrs
import typer
from rich.markup import escape
from typer.core import TyperGroup

from renaissance.commands.flags import (
    MaxImageBytes,
    MaxImagePixels,
    MaxNesting,
    MaxRecordBytes,
    MaxTarMembers,
    flags_of,
    options_from,
    unfit_option,
)
from renaissance.commands.output import print_table
from renaissance.contracts.source import Source, SourceContext
from renaissance.data.open_image import COMMAND_LIMITS, MAX_BYTES, MAX_PIXELS
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.options import Part, PrepareOptions
from renaissance.data.prepare.writer import write_tables
from renaissance.errors import PluginError
from renaissance.limits import DEFAULT_LIMITS, MAX_DOWNLOAD_RECORD, ReadLimits, reading_within
from renaissance.plugins.kinds import Kind
from renaissance.plugins.loading import Plugins, load_plugins
from renaissance.plugins.registry import Registration

KINDS: tuple[Kind, ...] = ("source",)
MAX_SHOWN = 20


class Context(Protocol):
    """The context of a command, which is typer's or click's, depending on the release of typer."""

    @property
    def meta(self) -> dict[str, Any]:
        """Values that nested contexts share."""
        ...

    def fail(self, message: str) -> NoReturn:
        """End with a usage error."""
        ...


class SourceGroup(TyperGroup):
    """The commands of all registered sources, which are loaded on demand."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names of the sources."""
        return _plugins(ctx).registry.names("source")

    def get_command(self, ctx: Context, cmd_name: str) -> Any:
        """Return the command of a source, or fail with the known names."""
        plugins = _plugins(ctx)
        registration = plugins.registry.find("source", cmd_name)
        if registration is not None:
            return _command(registration)
        return ctx.fail(plugins.unknown("source", cmd_name))


app = typer.Typer(
    cls=SourceGroup,
    help="Write the Arrow files of a dataset: NAME --help shows which files it reads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    subcommand_metavar="NAME [OPTIONS]",
)


def _plugins(ctx: Context) -> Plugins:
    # Loaded once for all the commands of a help page.
    if __name__ not in ctx.meta:
        ctx.meta[__name__] = load_plugins(KINDS)
    plugins: Plugins = ctx.meta[__name__]
    return plugins


def _command(registration: Registration) -> Any:
    layout = escape(inspect.getdoc(registration.component) or "")
    command = typer.Typer(add_completion=False)
    command.command(
        registration.name,
        help="\n\n".join(map(_unwrapped, layout.split("\n\n"))),
        short_help=layout.split("\n")[0],
        rich_help_panel="Sources",
    )(_function(registration))
    return typer.main.get_command(command)


def _unwrapped(paragraph: str) -> str:
    """Join the lines of a paragraph; an indented one shows a folder's layout, and is kept."""
    return paragraph if paragraph.startswith(" ") else " ".join(paragraph.split())


def _prepare(
    registration: Registration,
    *,
    source: Annotated[
        str, typer.Option(help="The dataset as downloaded: a folder, a file or an address.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the files.")],
    splits: Annotated[
        str | None, typer.Option(help="Splits to prepare, separated by commas; all if absent.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and check images.")] = 1,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Scale images down to this shorter side, in pixels.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Decode every image to check it.")] = False,
    max_image_pixels: MaxImagePixels = MAX_PIXELS,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
    max_record_bytes: MaxRecordBytes = MAX_DOWNLOAD_RECORD,
    max_text_characters: Annotated[
        int, typer.Option(min=1, help="Longest text, in characters.")
    ] = DEFAULT_LIMITS.text_characters,
    max_nesting: MaxNesting = DEFAULT_LIMITS.nesting,
    max_tar_members: MaxTarMembers = DEFAULT_LIMITS.tar_members,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Largest fraction of rows that may be left out.")
    ] = 0.01,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX/COUNT",
            help="Write one share of the files, such as 3/64, for several machines with the same "
            "output folder; the last one to end writes the manifest.",
        ),
    ] = None,
    **values: object,
) -> None:
    component = cast(type[Source], registration.component)
    names = () if splits is None else tuple(name.strip() for name in splits.split(","))
    options = PrepareOptions(
        output=output,
        workers=workers,
        resize=resize,
        check=check,
        limits=attrs.evolve(COMMAND_LIMITS, max_pixels=max_image_pixels, max_bytes=max_image_bytes),
        max_missing=max_missing,
        part=None if part is None else Part.of_text(part),
    )
    context = SourceContext(source, names)
    limits = ReadLimits(
        record_bytes=max_record_bytes,
        text_characters=max_text_characters,
        nesting=max_nesting,
        tar_members=max_tar_members,
        of_command=True,
    )
    with reading_within(limits):
        _write(component(options_from(component.Options, values), context), options)


COMMON_FLAGS = [
    parameter
    for parameter in inspect.signature(_prepare).parameters.values()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
]
COMMON_OPTIONS = tuple(flag.name for flag in COMMON_FLAGS)


def _function(registration: Registration) -> Callable[..., None]:
    """Return the function that prepares one source; typer reads the flags from its signature."""
    options = registration.component.Options
    fault = unfit_option(options, COMMON_OPTIONS)
    flags = flags_of(options, f"Options of {registration.name}") if fault is None else []

    def prepare(**values: Any) -> None:
        # Reported when the source is used, not before: the help page must list the others.
        if fault is not None:
            r = registration
            raise PluginError(f"{r.distribution} {r.version}: source '{r.name}': {fault}")
        _prepare(registration, **values)

    prepare.__signature__ = inspect.Signature([*COMMON_FLAGS, *flags])  # type: ignore[attr-defined]
    return prepare


def _write(source: Source, options: PrepareOptions) -> None:
    report = write_tables(source, options)
    print_table(
        ("file", "rows", "texts", "images", "MiB"),
        [
            (file, f"{t.rows:,}", f"{t.texts:,}", f"{t.images:,}", f"{t.size / 2**20:,.1f}")
            for file, t in report.tables.items()
        ],
    )
    _print_left_out(report)
    if report.num_missing:
        count = "1 file is" if report.num_missing == 1 else f"{report.num_missing} files are"
        typer.echo(f"{count} still to come from other parts; the last one writes the manifest")
    else:
        typer.echo(f"manifest: {report.manifest}")


def _print_left_out(report: Report) -> None:
    if not report.left_out:
        return
    shown = report.left_out[:MAX_SHOWN]
    print_table(("left out of", "record", "reason"), [(e.table, e.record, e.reason) for e in shown])
    if len(report.left_out) > len(shown):
        typer.echo(f"and {len(report.left_out) - len(shown):,} more, listed in the manifest")
    print_table(
        ("left out of", "count", "reason"),
        [
            (table, f"{count:,}", kind)
            for (table, kind), count in report.count_left_out().most_common(MAX_SHOWN)
        ],
    )
