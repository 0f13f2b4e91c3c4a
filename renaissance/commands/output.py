"""What all commands do about output: print tables, and check the paths of files."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from renaissance.errors import SpecError


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, tab-separated lines elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        for row in (titles, *rows):
            typer.echo("\t".join(row))
        return
    # Folded, not cut short: half a name would be of no use.
    columns = [Column(title, overflow="fold") for title in titles]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        _add_row(table, row)
    console.print(table)


def print_figures(
    titles: Sequence[str], rows: Sequence[Sequence[str]], heading: str | None = None
) -> None:
    """Print a table of figures: names on the left, figures aligned on the right.

    Args:
        titles: Titles of the columns; the first column holds the names.
        rows: Cells, row by row.
        heading: A line above the table.
    """
    name, *figures = titles
    table = Table(name, title=None if heading is None else Text(heading), box=None)
    for title in figures:
        table.add_column(title, justify="right")
    for row in rows:
        _add_row(table, row)
    console = Console(highlight=False)
    # Soft wrap: lines stay whole in a file.
    console.print(table, soft_wrap=not console.is_terminal)


def print_line(line: str) -> None:
    """Print a line; on a terminal, wrap it at words."""
    console = Console(highlight=False)
    console.print(Text(line), soft_wrap=not console.is_terminal)


def _add_row(table: Table, cells: Sequence[str]) -> None:
    # As plain text: square brackets are not markup here.
    table.add_row(*map(Text, cells))


def check_writable(flag: str, path: Path) -> None:
    """Check the path of an output before work that may take hours.

    Args:
        flag: The flag that names it, for messages.
        path: The file.

    Raises:
        SpecError: If its folder does not exist, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise SpecError(f"{flag}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise SpecError(f"{flag}: {path} is a folder; name a file")
