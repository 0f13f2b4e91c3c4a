"""Reading pickles from the web without executing them."""

import pickle
from pathlib import Path
from typing import Any

from renaissance.errors import DataError, named, quoted


# Not `pickle.Unpickler`, whose table of remembered objects has room for the largest index that the
# file names: a few bytes can ask for gigabytes. In this one, which is slower, it is a dict.
class _PlainUnpickler(pickle._Unpickler):
    """Makes lists, tuples, dicts, sets, strings and numbers; refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError(f"it asks for the persistent object {quoted(pid)}")


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, strings and numbers, written by Python 2 or 3.

    Strings of Python 2 are decoded as UTF-8; bytes that are not valid UTF-8 are replaced.

    Raises:
        DataError: If it cannot be read, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    # Damaged pickles raise all kinds of errors.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read ({named(error)}); expected a pickle of plain "
            "lists, dicts, strings and numbers: no other is loaded. Download it again from a "
            "source that you trust"
        ) from error
