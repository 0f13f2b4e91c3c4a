"""Models that need a library which is not installed."""

import re

from renaissance import PluginError

NAMED = re.compile(r"requires the (\S+) library|No module named '([\w.]+)'")


def missing_library(where: str, family: str, error: ImportError) -> PluginError:
    """Return the error for a model that needs a library which is not installed."""
    found = NAMED.search(str(error))
    if found is None:
        return PluginError(
            f"{where}: {family!r} cannot be used here: {' '.join(str(error).split())}"
        )
    name = found[1] or found[2]
    return PluginError(
        f"{where}: {family!r} needs the library {name}, which is not installed; run "
        f"pip install {name}, or use another family"
    )
