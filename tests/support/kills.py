"""Kill code at any of its operations on files, in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"}


class Killed(BaseException):
    """The process is gone: nothing that comes after, not even a `finally`, changes a file."""


class _Killer:
    """Raises at one operation inside a folder, and at all that follow it."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.left = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in EVENTS:
            return
        if str(self.folder) in str(arguments[0]) or event in ("os.remove", "os.rmdir"):
            self.left -= 1
            if self.left < 0:
                raise Killed


_killer: _Killer | None = None


def is_killed(folder: Path, operation: int, function: Callable[[], object]) -> bool:
    """Call a function, and kill it before an operation on files in a folder, counted from 0.

    Returns:
        Whether the function got as far as that.
    """
    global _killer
    if _killer is None:
        _killer = _Killer()
        sys.addaudithook(_killer)
    _killer.folder, _killer.left = folder, operation
    try:
        function()
    except Killed:
        return True
    finally:
        # Also if the function has caught the exception.
        was_killed = _killer.left < 0
        _killer.folder = None
    return was_killed
