"""A table of rows to predict, of which each column is found by its role."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from renaissance.contracts.dataset import DatasetContext
from renaissance.data.tables.cache import default_cache
from renaissance.data.tables.files import find_tables
from renaissance.data.tables.rows import TableRows
from renaissance.data.tables.table import column_names
from renaissance.errors import DataError, did_you_mean
from renaissance.inference.model import Model

# What a sample may have besides what an objective requires.
OPTIONAL = ("image_2", "text_pair")


def open_input(
    files: Sequence[str],
    columns: Mapping[str, str],
    model: Model,
    required: frozenset[str],
    optional: Sequence[str] = OPTIONAL,
) -> TableRows:
    """Open tables in any format that the dataset `table` reads.

    The column of a role is the one that is given, or else that of the run's own tables, or else
    the one with the role's name.

    Args:
        files: Paths, patterns, folders or addresses, relative to the working directory.
        columns: Columns that are given, by role.
        model: The model, whose run may have been trained on tables.
        required: Roles that must be there.
        optional: Roles that may be there.

    Raises:
        DataError: If a table cannot be read, or lacks a column.
    """
    root = Path()
    tables = find_tables(root, tuple(files))
    known = column_names(tables, default_cache())
    usual = _columns_of_run(model)
    chosen = dict(columns)
    for role in (*sorted(required), *optional):
        if role not in chosen:
            candidates = [usual.get(role, role), role]
            found = next((column for column in candidates if column in known), None)
            if found is not None:
                chosen[role] = found
    # Only where the run has identifiers: a column of that name may mean anything.
    if usual.get("id") in known:
        chosen.setdefault("id", usual["id"])
    missing = sorted(required - chosen.keys())
    if missing:
        raise DataError(
            f"{tables[0].path}: no column for {', '.join(missing)}; it has {', '.join(known)}"
            f"{did_you_mean(usual.get(missing[0], missing[0]), known)}. Name it: "
            f"--column {missing[0]}=COLUMN"
        )
    context = DatasetContext(
        root=root,
        seed=model.spec.run.seed,
        training=False,
        max_image_bytes=model.spec.data.max_image_bytes,
        limits=model.spec.data.read_limits(),
    )
    return TableRows((), context, tuple(files), chosen, on_empty="keep")


def _columns_of_run(model: Model) -> dict[str, str]:
    """Return the columns of the tables on which a run was trained, by role."""
    data = model.spec.data
    for dataset in (*data.train, *data.validate):
        columns = getattr(dataset.options, "columns", None)
        if isinstance(columns, dict):
            return columns
    return {}
