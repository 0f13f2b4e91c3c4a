"""Prints the tables of all commands."""

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, tab-separated lines elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        for row in (titles, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*titles, box=None, pad_edge=False)
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
