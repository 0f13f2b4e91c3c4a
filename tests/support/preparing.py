"""Prepare a dataset in this process, with the source that a name stands for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from renaissance import Source, SourceContext
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.options import PrepareOptions
from renaissance.data.prepare.writer import write_tables
from renaissance.plugins.loading import load_plugins


def source_of(name: str, path: Path | str, splits: Sequence[str] = (), /, **options: Any) -> Source:
    """Return a registered source; `options` are its own."""
    component: Any = load_plugins(kinds=("source",)).require("source", name).component
    source: Source = component(
        component.Options(**options), SourceContext(str(path), tuple(splits))
    )
    return source


def prepare(
    name: str, path: Path | str, output: Path, splits: Sequence[str] = (), **how: Any
) -> Report:
    """Prepare with the defaults of a source; `how` are the options of preparing."""
    return write_tables(
        source_of(name, path, splits), PrepareOptions(output=output, progress=False, **how)
    )
