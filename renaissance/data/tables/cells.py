"""What the cells of a column are: plain, empty, numbers."""

from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from renaissance.data.arrow import is_binary, is_text
from renaissance.data.mapped_arrow import ArrowArray, ArrowType

Scalar = TypeVar("Scalar", np.bool_, np.int64)

# Leading zeros are those of an identifier, not of a number.
INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
NUMBER = r"^([-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|nan|NaN)$"
LEADING_ZERO = r"^[-+]?0[0-9]"
# A text of white space, as JSON.
BLANK_JSON = r'^"(\s|\\[nrt])*"$'


def plain_type(kind: ArrowType) -> ArrowType:
    """Return the type with which values are stored as they are: no dictionary, no views."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def plain(array: ArrowArray) -> ArrowArray:
    """Return an array with its values as they are."""
    kind = plain_type(array.type)
    return array if kind == array.type else array.cast(kind)


def number_type(arrays: list[ArrowArray]) -> type[int] | type[float] | None:
    """Return int or float if all texts are such numbers, and there is at least one; nulls apart."""
    has_leading_zero = any(pc.any(_matches(array, LEADING_ZERO)).as_py() for array in arrays)
    if has_leading_zero or all(array.null_count == len(array) for array in arrays):
        return None
    for kind, pattern in ((int, INTEGER), (float, NUMBER)):
        # None where all are null.
        if not any(pc.all(_matches(array, pattern)).as_py() is False for array in arrays):
            return kind
    return None


def _matches(array: ArrowArray, pattern: str) -> ArrowArray:
    return pc.match_substring_regex(array, pattern)


def empty(array: ArrowArray, is_json: bool) -> NDArray[np.bool_]:
    """Return which values are empty: null, blank text, no bytes, or a struct of only such.

    Args:
        array: The values.
        is_json: Whether texts are JSON.
    """
    if pa.types.is_dictionary(array.type):
        return _of_indices(array, empty(array.dictionary, is_json), np.True_)
    array = plain(array)
    if pa.types.is_struct(array.type):
        return _empty_structs(array)
    if is_text(array.type) and is_json:
        blank = _matches(array, BLANK_JSON)
    elif is_text(array.type):
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(array)), 0)
    elif is_binary(array.type):
        blank = pc.equal(pc.binary_length(array), 0)
    else:
        blank = array.is_null()
    return pc.fill_null(blank, True).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def num_bytes(array: ArrowArray) -> NDArray[np.int64]:
    """Return the size of each text, 0 for null; no value is written out that is there once."""
    if pa.types.is_dictionary(array.type):
        return _of_indices(array, num_bytes(array.dictionary), np.int64(0))
    sizes = pc.fill_null(pc.binary_length(plain(array)), 0).cast(pa.int64())
    found: NDArray[np.int64] = sizes.to_numpy(zero_copy_only=False)
    return found


def _of_indices(array: ArrowArray, found: NDArray[Scalar], of_null: Scalar) -> NDArray[Scalar]:
    """Return what was found of the values of a dictionary for each row."""
    indices = pc.fill_null(array.indices, len(found)).to_numpy(zero_copy_only=False)
    of_rows: NDArray[Scalar] = np.append(found, of_null)[indices]
    return of_rows


def _empty_structs(array: ArrowArray) -> NDArray[np.bool_]:
    is_null: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    # An image with its path, as Hugging Face's datasets have it; or a member of a tar.
    names = [field.name for field in array.type if field.name in ("bytes", "path")]
    if not names:
        return is_null
    fields = [empty(array.field(name), False) for name in names]
    is_empty: NDArray[np.bool_] = np.logical_and.reduce(fields)
    return is_null | is_empty
