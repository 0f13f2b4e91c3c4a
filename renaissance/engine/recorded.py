"""How a spec differs from the one that a run folder keeps."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import tomli

from renaissance.engine.run_folder import RunFolder
from renaissance.spec.sections import RunSpec
from renaissance.spec.write import record_tables, settings

# By key path: the value in the run's spec and that of the evaluation; None for an absent one.
Changes: TypeAlias = Mapping[str, Mapping[str, Any]]
# A run folder may be moved, steps replace epochs when a spec is resolved, and what is kept of
# images changes nothing.
NOT_COMPARED = (
    *("run.name", "run.output_dir", "train.max_epochs"),
    *("data.cache", "data.cache_folder", "data.cache_gib"),
)
# A value that stands for whatever the run has recorded.
UNSAID = ("train.precision", "auto")


def changed_settings(run: RunFolder, read: RunSpec) -> Changes:
    """Return the settings of an evaluation that differ from the spec of the run.

    Args:
        run: The run; if it has no spec, nothing differs.
        read: The spec of the evaluation. What it does not say is not compared.
    """
    if not run.spec.is_file():
        return {}
    recorded = dict(settings(tomli.loads(run.spec.read_text())))
    return {
        path: {"run": recorded.get(path), "evaluation": value}
        for path, value in settings(record_tables(read))
        if path not in NOT_COMPARED and (path, value) != UNSAID and recorded.get(path) != value
    }
