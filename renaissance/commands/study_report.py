"""`renaissance study report`."""

import typer

from renaissance.commands.output import print_line, print_table
from renaissance.errors import RunError, SpecError
from renaissance.plugins.loading import load_plugins
from renaissance.study import Study
from renaissance.study.comparison import compare_variants, unmeasured
from renaissance.study.report import gaps, write_report
from renaissance.study.running import stale_runs
from renaissance.study.table import TITLES, notes_of, table_rows


def report_study(study: Study) -> None:
    """Print and write the report, of what there is.

    Raises:
        RunError: If nothing was measured yet, or matplotlib is missing.
        SpecError: If something was measured, but no metric of the report.
    """
    rows = compare_variants(study)
    if not rows and study.results():
        raise SpecError(*unmeasured(study, rows))
    if not rows:
        raise RunError(
            f"{study.folder}: no run was measured yet; run `renaissance study run {study.path}`"
        )
    print_table(TITLES, table_rows(rows))
    for gap in gaps(study, rows):
        print_line(f"missing: {gap}")
    warnings = stale_runs(study, load_plugins())
    for warning in warnings:
        print_line(f"warning: {warning}")
    for note in notes_of(rows):
        print_line(f"note: {note}")
    for path in write_report(study, rows, warnings):
        typer.echo(f"written: {path}")
