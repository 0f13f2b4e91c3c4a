"""Errors for users. Each message says where, what it got, what it expects, and the remedy."""

import difflib
import errno
import re
from collections.abc import Iterable
from typing import TypeGuard

# How much of a value a message shows: it may be a picture, or a number of 6,000 digits.
MAX_VALUE_LENGTH = 80
# Paths are more useful in full.
MAX_PATH_LENGTH = 300
LONG_WORD = re.compile(rf"\S{{{MAX_PATH_LENGTH + 1},}}")
# Of the message of an error that is not ours.
MAX_CAUSE_LENGTH = 2000
# No space left, quota exceeded, file too large: no bug in a component.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RenaissanceError(Exception):
    """An error that the user can fix, printed without a traceback.

    Attributes:
        exit_code: 2 if nothing was started, 1 if a run failed.
    """

    exit_code = 2


class SpecError(RenaissanceError):
    """One or more faults in a run spec, all reported at once.

    Args:
        faults: One line per fault: file, key path, what it got, what it expects.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class PluginError(RenaissanceError):
    """A plugin that cannot be loaded, or a component that breaks its contract."""


class DataError(RenaissanceError):
    """Data that is missing, unreadable, or not in the form that a component needs."""


class CheckpointError(RenaissanceError):
    """A checkpoint that is missing, damaged, or of another model."""


class RunError(RenaissanceError):
    """A failure during a run, such as a loss that is not finite."""

    exit_code = 1


class EchoedError(RenaissanceError):
    """A failure on another rank, raised on rank 0, which prints it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerError(EchoedError):
    """A failure that rank 0 prints, raised on the other ranks, which exit silently."""


def describe(error: Exception) -> str:
    """Return the text to print for an error; any other exception is a bug in a component."""
    if isinstance(error, RenaissanceError):
        # Libraries and plugins put values into their messages too.
        return LONG_WORD.sub(lambda word: shortened(word[0]), printed(error))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; free space, or write to another folder"
    if _is_too_long(error):
        return f"{shortened(str(error.filename))}: {error.strerror}; no file can have this name"
    if _is_out_of_memory(error):
        return (
            f"out of memory ({named(error)}); lower train.micro_batch_size, data.image_size or "
            "data.num_workers"
        )
    text = shortened(printed(error), MAX_CAUSE_LENGTH)
    return f"{type(error).__name__}: {text}\n(the same command with --debug shows where)"


def exit_code_of(error: Exception) -> int:
    """Return the exit code of a command that fails with an error."""
    if isinstance(error, RenaissanceError):
        return error.exit_code
    return 2 if _is_too_long(error) else 1


def _is_too_long(error: Exception) -> TypeGuard[OSError]:
    # Whatever looks for a file finds this, long before anything is written.
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _is_out_of_memory(error: Exception) -> bool:
    # torch has a class of its own for a GPU, and none for the CPU.
    is_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in printed(error)
    return isinstance(error, MemoryError) or is_torch


def printed(error: BaseException) -> str:
    """Return an exception's message, which a third-party class may fail to make."""
    try:
        return str(error)
    except Exception as failure:
        return f"(its message cannot be printed: __str__ raises {type(failure).__name__})"


def named(error: BaseException) -> str:
    """Return an exception's class, and the first 80 characters of its message."""
    return f"{type(error).__name__}: {shortened(printed(error))}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name; empty if none is close."""
    text = name if isinstance(name, str) else quoted(name)
    closest = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean '{closest[0]}'?" if closest else ""


def quoted(value: object) -> str:
    """Return a value as Python writes it, in at most 80 characters."""
    try:
        return shortened(repr(value))
    # An integer has too many digits, a list is nested too deeply, a plugin's object has a fault.
    except Exception:
        return f"a value of type {type(value).__name__} that cannot be printed"


def shortened(text: str, length: int = MAX_VALUE_LENGTH) -> str:
    """Return a text in at most 80 characters, or another length, with an ellipsis for the rest."""
    return text if len(text) <= length else text[: length - 3] + "..."


def shown_path(path: object) -> str:
    """Return a path in full, unless it is longer than any file's name and so a mistake."""
    text = str(path)
    return text if len(text) <= MAX_PATH_LENGTH else shortened(text)
