"""The contract of sources."""

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from renaissance.commands.flags import unfit_option
from renaissance.commands.prepare import COMMON_OPTIONS
from renaissance.contracts.source import ImageFile, LeftOut, Record, Source, SourceContext
from renaissance.data.prepare.options import PrepareOptions
from renaissance.data.prepare.writer import write_tables
from renaissance.errors import DataError
from renaissance.testing.contract_check import ContractCheck, ViolationError, require

# A file name without folders.
FILE_NAME = re.compile(r"[\w+.-]+")
NO_SUCH_SPLIT = "no-such-split"


def check_source(component: type[Source], options: object = None, *, path: Path | str) -> None:
    """Check a source against its contract, on a small download in the official layout.

    Args:
        component: The class.
        options: An instance of its `Options`; the defaults if absent.
        path: The download: a few records with all their images.

    Raises:
        ContractError: With every violation, in words.
    """
    check = ContractCheck("source", component)
    check.declaration()
    with check.part("documentation"):
        _check_documentation(component)
    options = check.options(options)
    context = SourceContext(str(path))
    with check.part("making"):
        source, again = check.make(options, context), check.make(options, context)
        _check_attributes(source)
    check.stop_if_broken()
    with check.part("records"):
        entries = list(source.records())
        for index, entry in enumerate(entries):
            _check_entry(source.schema, entry, f"records()[{index}]")
        require(
            any(isinstance(entry, Record) for entry in entries),
            f"records() lists no row of {path}, expected some; pass a download with a few records",
        )
    check.stop_if_broken()
    with check.part("repetition"):
        for other in (source, again):
            require(
                list(other.records()) == entries,
                "records() lists other rows, or in another order, the second time; let them "
                "depend only on the files",
            )
    with check.part("splits"):
        unknown = SourceContext(context.path, (NO_SUCH_SPLIT,))
        _check_splits(lambda: check.make(options, unknown))
    with check.part("images"):
        _check_images(source)
    check.stop_if_broken()


def _check_documentation(component: type[Source]) -> None:
    _, _, layout = (inspect.getdoc(component) or "").partition("\n")
    require(
        bool(layout.strip()),
        "its docstring is one line, expected a first line that names the dataset, and then the "
        "files that the folder must hold; `renaissance data prepare NAME --help` shows it",
    )
    fault = unfit_option(component.Options, COMMON_OPTIONS)
    require(fault is None, str(fault))


def _check_attributes(source: Source) -> None:
    name, path, schema = (getattr(source, n, None) for n in ("name", "path", "schema"))
    require(
        isinstance(name, str) and FILE_NAME.fullmatch(name) is not None,
        f"name is {name!r}, expected a word with which file names can start",
    )
    require(
        isinstance(path, str) and bool(path),
        f"path is {path!r}, expected the path of the download, for messages; call "
        "super().__init__(options, context)",
    )
    require(
        isinstance(schema, pa.Schema),
        f"schema is {schema!r:.80}, expected a pyarrow schema of all tables",
    )
    rows = source.rows_per_file
    require(
        rows is None or (isinstance(rows, int) and rows > 0),
        f"rows_per_file is {rows!r}, expected a number above 0, or None for one file per table",
    )
    require(
        isinstance(source.beside, Mapping)
        and all(FILE_NAME.fullmatch(file) for file in source.beside)
        and _is_json(source.beside),
        f"beside is {source.beside!r:.80}, expected the contents of JSON files, by file name",
    )


def _check_entry(schema: pa.Schema, entry: object, where: str) -> None:
    if not isinstance(entry, Record | LeftOut):
        raise ViolationError(f"{where} is {type(entry).__name__}, expected a Record or a LeftOut")
    require(
        isinstance(entry.table, str) and FILE_NAME.fullmatch(entry.table) is not None,
        f"{where}: table is {entry.table!r}, expected the name of its table",
    )
    if isinstance(entry, Record):
        _check_record(schema, entry, where)
    else:
        require(
            bool(entry.record) and bool(entry.reason),
            f"{where}: record is {entry.record!r} and reason {entry.reason!r}, expected what was "
            "left out and why: users read both",
        )


def _check_record(schema: pa.Schema, record: Record, where: str) -> None:
    columns = {*record.images, *record.values}
    require(
        columns == set(schema.names) and len(columns) == len(record.images) + len(record.values),
        f"{where}: images and values are of the columns {', '.join(sorted(columns))}, expected "
        f"each column of the schema once: {', '.join(schema.names)}",
    )
    for column, file in record.images.items():
        require(
            isinstance(file, ImageFile),
            f"{where}: images[{column!r}] is {type(file).__name__}, expected an ImageFile",
        )
        kind = schema.field(column).type
        require(
            kind == pa.binary(),
            f"{where}: column '{column}' of the schema is {kind}, expected binary: it takes the "
            "bytes of an image",
        )
    require(
        _is_json(record.values),
        f"{where}: values are {record.values!r:.120}, which JSON cannot hold unchanged; use "
        "strings, numbers, None, and lists of them",
    )
    for column, value in record.values.items():
        _check_value(schema.field(column), value, where)
    require(
        isinstance(record.num_texts, int) and record.num_texts >= 0,
        f"{where}: num_texts is {record.num_texts!r}, expected the number of texts in the row",
    )


def _check_value(field: pa.Field, value: object, where: str) -> None:
    try:
        fits = pa.array([value], field.type).to_pylist() == [value]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        fits = False
    require(
        fits,
        f"{where}: values[{field.name!r}] is {value!r:.80}, expected {field.type}, the type of its "
        "column in the schema",
    )


def _check_splits(make: Callable[[], Source]) -> None:
    try:
        list(make().records())
    except DataError:
        return
    raise ViolationError(
        f"it accepted the split '{NO_SUCH_SPLIT}', expected a DataError that names the known ones; "
        "call renaissance.prepare.choose_splits(context, known)"
    )


def _check_images(source: Source) -> None:
    """Prepare the download: the writer leaves out images that it cannot read."""
    known = {entry for entry in source.records() if isinstance(entry, LeftOut)}
    with tempfile.TemporaryDirectory() as folder:
        output = PrepareOptions(output=Path(folder), check=True, max_missing=1.0, progress=False)
        left_out = write_tables(source, output).left_out
    unread = [entry for entry in left_out if entry not in known]
    shown = "; ".join(f"{entry.record}: {entry.reason}" for entry in unread[:3])
    require(
        not unread,
        f"unusable images: {len(unread)} ({shown}), expected intact image files; correct the "
        "paths that records() makes, or complete the download",
    )


def _is_json(content: object) -> bool:
    try:
        return bool(json.loads(json.dumps(content)) == content)
    except (TypeError, ValueError):
        return False
