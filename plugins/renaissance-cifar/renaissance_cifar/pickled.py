"""The pickled batches of CIFAR-10, read without executing what a pickle may contain.

A pickle is a program. Here it may make dicts, lists, strings and numbers; where it calls NumPy to
build an array, a stand-in records the array's description instead, and no NumPy code runs.
"""

import pickle
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from renaissance import DataError, quoted

# Old and new names of the function with which pickled arrays begin.
RECONSTRUCT = (
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
)
UNSIGNED_BYTES = "u1"


class _Type:
    """Stands in for numpy.dtype and numpy.ndarray; only the name matters."""

    def __init__(self, name: str = "", *flags: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """Stands in for an array."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def decoded(self) -> NDArray[np.uint8]:
        _, shape, dtype, in_columns, content = self.state
        if dtype.name != UNSIGNED_BYTES or in_columns:
            raise ValueError(
                f"an array of type {quoted(dtype.name)}, expected {UNSIGNED_BYTES!r} in rows"
            )
        # Python 2 wrote bytes as strings.
        data = content.encode("latin-1") if isinstance(content, str) else content
        return np.frombuffer(data, np.uint8).reshape(shape)


# Not `pickle.Unpickler`, whose table of remembered objects has room for the largest index that the
# file names: a few bytes can ask for gigabytes. In this one, which is slower, it is a dict.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECONSTRUCT:
            return _Array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return _Type
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError(f"it asks for the persistent object {quoted(pid)}")


@attrs.frozen
class Batch:
    """Pictures and their classes.

    Attributes:
        pixels: All red values, then green, then blue, row by row, (pictures, 3072), uint8.
        labels: Class of each picture, (pictures,).
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[Any]


def read_pickled_batch(path: Path) -> Batch:
    """Read `data_batch_1` or another batch.

    Raises:
        DataError: If it is damaged, or asks for anything but plain values and arrays of bytes.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin-1").load()
        return Batch(content["data"].decoded(), np.array(content["labels"], dtype=np.int64))
    # Damaged pickles raise all kinds of errors.
    except Exception as error:
        raise DataError(
            f"{path}: not read ({type(error).__name__}: {error}); expected a batch of "
            "cifar-10-python.tar.gz: a pickled dict with 'data', an array of bytes, and 'labels': "
            "no other is loaded. Download it again from a source that you trust, or use the binary "
            "version"
        ) from error
