"""`renaissance plugins`: what is installed, and which options it has."""

from pathlib import Path
from typing import Annotated

import typer

from renaissance.commands.output import print_table

app = typer.Typer(
    help="List the installed components, show one, check all, or write a new package.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def list_components(context: typer.Context) -> None:
    """List kinds, names, distributions and versions, and the plugins that failed to load."""
    if context.invoked_subcommand is not None:
        return
    from renaissance.plugins.loading import load_plugins

    plugins = load_plugins()
    print_table(
        ("kind", "name", "distribution", "version"),
        [(r.kind, r.name, r.distribution, r.version) for r in plugins.registry],
    )
    if plugins.broken:
        print_table(
            ("failed to load", "version", "entry point", "cause"),
            [(b.distribution, b.version, b.entry_point, b.cause) for b in plugins.broken],
        )


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="Kind of component, such as 'encoder'.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
) -> None:
    """Show what a component is, and its options."""
    # Reading contracts imports torch: too slow for `renaissance --help`.
    from renaissance.plugins.kinds import require_kind
    from renaissance.plugins.loading import load_plugins
    from renaissance.spec.document import option_rows, summary

    registration = load_plugins().require(require_kind(kind), name)
    source = f"{registration.distribution} {registration.version}"
    typer.echo(f"{kind} '{name}', from {source}: {summary(registration.component)}")
    rows = option_rows(registration.component.Options)
    if rows:
        print_table(("option", "type", "default", "help"), rows)
    else:
        typer.echo("No options.")


@app.command()
def doctor() -> None:
    """Check every installed plugin; exit code 1 if something is wrong."""
    from renaissance.commands.doctor import diagnose, summarize
    from renaissance.plugins.loading import load_plugins

    plugins = load_plugins()
    print_table(("distribution", "version", "components"), summarize(plugins))
    faults = diagnose(plugins)
    for fault in faults:
        typer.echo(f"wrong: {fault}")
    if faults:
        raise typer.Exit(1)
    typer.echo("ok: nothing is wrong")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the package: kebab-case.")],
    kind: Annotated[
        list[str], typer.Option("--kind", help="Kind of component to write; may be repeated.")
    ],
) -> None:
    """Write a working plugin package to a new folder NAME."""
    from renaissance.commands.new_plugin import write_package

    for line in write_package(Path(), name, kind):
        typer.echo(line)
