"""The errors a user can meet: where, what was found, what is expected, the remedy."""

import difflib
from collections.abc import Iterable


class RenaissanceError(Exception):
    """An error the user can fix: printed without a traceback.

    Attributes:
        exit_code: 2 when nothing has started yet, 1 when a run was under way.
    """

    exit_code = 2


class SpecError(RenaissanceError):
    """One or more faults in a run spec, all reported at once.

    Args:
        faults: One line per fault, each with file, key path, what was found and what is expected.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class PluginError(RenaissanceError):
    """A plugin that cannot be loaded, or a component that breaks its contract."""


class DataError(RenaissanceError):
    """Data that is missing, unreadable, or not of the shape a component needs."""


class CheckpointError(RenaissanceError):
    """A checkpoint that is missing, damaged, or of another model."""


class RunError(RenaissanceError):
    """A failure of a run under way, such as a loss that is not finite."""

    exit_code = 1


def describe(error: Exception) -> str:
    """Return what to print of an error; one that is none of the above is a component's defect."""
    if isinstance(error, RenaissanceError):
        return str(error)
    return f"{type(error).__name__}: {error}\n(the same command with --debug shows where)"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
