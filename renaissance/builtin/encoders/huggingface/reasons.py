"""What the library says is wrong, in messages of ours."""

import re

from renaissance import PluginError, shortened

# Some of the library's messages list every family that there is.
MAX_REASON = 300
NAMED = re.compile(r"requires the (\S+) library|No module named '([\w.]+)'")


def reason_of(error: Exception) -> str:
    """Return an error's message on one line, shortened."""
    return shortened(" ".join(str(error).split()), MAX_REASON)


def missing_library(where: str, family: str, error: ImportError) -> PluginError:
    """Return the error for a model that needs a library which is not installed."""
    found = NAMED.search(str(error))
    if found is None:
        return PluginError(f"{where}: {family!r} cannot be used here: {reason_of(error)}")
    name = found[1] or found[2]
    return PluginError(
        f"{where}: {family!r} needs the library {name}, which is not installed; run "
        f"pip install {name}, or use another family"
    )
