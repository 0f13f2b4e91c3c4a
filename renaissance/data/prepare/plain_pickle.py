"""Reading pickles from the web without running what they say."""

import pickle
from pathlib import Path
from typing import Any

from renaissance.errors import DataError


class _PlainUnpickler(pickle.Unpickler):
    """Makes lists, tuples, dicts, sets, strings and numbers; has no name for anything else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it asks for the persistent object {pid!r}")


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, strings and numbers; those of Python 2, too.

    Strings of Python 2 are taken as UTF-8, bytes that are none of it replaced.

    Raises:
        DataError: If it cannot be read, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    # Damaged pickles raise all manner of errors.
    except Exception as error:
        raise DataError(
            f"{path}: not read ({type(error).__name__}: {error}); expected a pickle of plain "
            "lists, dicts, strings and numbers, and loads no other. Download it again from a "
            "source that you trust"
        ) from error
