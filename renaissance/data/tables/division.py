"""Which rows of a table belong to a split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from renaissance.errors import DataError, did_you_mean, quoted
from renaissance.options import Field, option

# The division must stay the same for ever: a row that changed sides would spoil a comparison.
KEY = b"renaissance: hold_out"
HASH_BYTES = 8
MAX_SHOWN = 10


def _one_way(instance: "TableSplit", attribute: Field, value: str | None) -> None:
    if (value is None) == (instance.hold_out is None):
        raise ValueError(
            'expected either column and value, as in { column = "split", value = "train" }, or '
            'hold_out, as in { hold_out = 0.1, by = "image" }'
        )
    if (value is None) != (instance.value is None):
        raise ValueError('expected column and value: { column = "split", value = "train" }')


def _between(instance: object, attribute: Field, value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise ValueError(f"got {quoted(value)}, expected a fraction between 0 and 1")


@attrs.frozen(kw_only=True)
class TableSplit:
    """Which rows of a table are read."""

    column: str | None = option(
        None, help="Column that names the split of each row.", validator=_one_way
    )
    value: str | bool | int | float | tuple[str, ...] | None = option(
        None, help="Value of that column in the rows to read, or a list of values."
    )
    hold_out: float | None = option(
        None,
        help="Fraction of the images (or of the values of `by`) that are held out of training. "
        "Which ones they are depends neither on the order of the rows nor on the seed.",
        validator=_between,
    )
    by: str = option(
        "image",
        help="What hold_out divides by: a key of `columns`, or a column of the table. Rows with "
        "the same value are on the same side.",
    )
    side: Literal["train", "held-out"] | None = option(
        None,
        help="Side of hold_out to read; by default train for training and held-out for validation.",
    )


def rows_of_value(values: Iterable[object], split: TableSplit, where: str) -> NDArray[np.bool_]:
    """Return which rows a split by value has, (rows,).

    Raises:
        DataError: If it has none.
    """
    chosen = split.value if isinstance(split.value, tuple) else (split.value,)
    names = set(map(str, chosen))
    texts = [str(value) for value in values]
    is_chosen = np.array([text in names for text in texts], np.bool_)
    absent = sorted(names - set(texts))
    if absent:
        counts = Counter(texts)
        most = counts.most_common(MAX_SHOWN)
        known = ", ".join(f"{name!r} ({count:,} rows)" for name, count in most)
        raise DataError(
            f"{where}: no row has {split.column} = {absent[0]!r}; it has {known}"
            f"{did_you_mean(absent[0], counts)}"
        )
    return is_chosen


def rows_of_side(keys: Sequence[str], fraction: float, held_out: bool) -> NDArray[np.bool_]:
    """Return which rows are on one side of a division by keys, (rows,).

    Args:
        keys: Key of each row; rows with equal keys are on the same side.
        fraction: Fraction of the keys to hold out.
        held_out: Whether to return the rows that are held out, or the others.
    """
    side = {key: is_held_out(key, fraction) == held_out for key in set(keys)}
    return np.array([side[key] for key in keys], np.bool_)


def is_held_out(key: str, fraction: float) -> bool:
    """Return whether a key is held out of training: a function of key and fraction alone.

    What is held out with a fraction is also held out with a larger one.
    """
    text = key.encode(errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=HASH_BYTES, key=KEY).digest()
    return int.from_bytes(digest, "big") < fraction * (1 << 8 * HASH_BYTES)
