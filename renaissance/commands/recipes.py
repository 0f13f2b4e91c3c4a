"""`renaissance recipes`: the layers that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

from renaissance.commands.output import print_table
from renaissance.errors import SpecError
from renaissance.files import write_whole
from renaissance.spec.recipes import PREFIX, recipe_copy, recipe_names, recipe_path, recipe_summary

app = typer.Typer(
    help="List the recipes, which a run names as recipe:NAME; show or copy one.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
Name = Annotated[str, typer.Argument(help="Name of a recipe, such as image/swin-tiny.")]


@app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes."""
    if context.invoked_subcommand is None:
        rows = [(f"{PREFIX}{name}", recipe_summary(name)) for name in recipe_names()]
        print_table(("recipe", ""), rows)


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    typer.echo(recipe_path(name).read_text(), nl=False)


@app.command()
def copy(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(help="File to write; by default in the working directory.")
    ] = None,
) -> None:
    """Copy a recipe, to change it."""
    target = file or Path(recipe_path(name).name)
    if target.exists():
        raise SpecError(f"{target} exists; name another file, or remove it")
    try:
        write_whole(target, recipe_copy(name))
    except OSError as error:
        raise SpecError(f"{target}: cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {target}")
