"""How much is read at once of annotations, tables and tars."""

import contextlib
import json
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import attrs

from renaissance.errors import quoted

# Largest record of a download, in bytes. No dataset comes near it, but a damaged file may.
MAX_DOWNLOAD_RECORD = 64 << 20
# The highest limits: Python itself gives up at about a thousand lists within each other, and counts
# bytes in a machine word.
MOST_NESTING = 500
MOST_RECORD_BYTES = 1 << 40


@attrs.frozen(kw_only=True)
class ReadLimits:
    """The largest things that are read; files that are damaged or made to harm have larger ones.

    Attributes:
        record_bytes: A line, a JSON value, a cell of text, or a text or header in a tar; bytes.
        text_characters: A text.
        nesting: Lists and objects within each other, in a JSON value.
        tar_members: Files in one tar.
        of_command: Whether they are set by flags, and not in a run spec.
    """

    record_bytes: int = 16 << 20
    text_characters: int = 100_000
    nesting: int = 100
    tar_members: int = 10_000_000
    of_command: bool = False

    def at_most(self, name: str) -> str:
        """Return a limit and what sets it, for messages: "at most 100 (data.max_nesting)"."""
        option = f"--max-{name.replace('_', '-')}" if self.of_command else f"data.max_{name}"
        return f"at most {getattr(self, name):,} ({option})"


DEFAULT_LIMITS = ReadLimits()
_current: ContextVar[ReadLimits] = ContextVar("read limits", default=DEFAULT_LIMITS)


def read_limits() -> ReadLimits:
    """Return the limits of what is being read."""
    return _current.get()


@contextlib.contextmanager
def reading_within(limits: ReadLimits) -> Iterator[None]:
    """Set the limits of what is read inside this context, by whatever plugin."""
    token = _current.set(limits)
    try:
        yield
    finally:
        _current.reset(token)


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is not valid, names a key twice, or is nested more deeply than the limits
            allow.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise nested_too_deeply() from error
    opened = (text.count("["), text.count("{")) if isinstance(text, str) else (
        text.count(b"["), text.count(b"{")
    )  # fmt: skip
    check_nesting(value, sum(opened))
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        # Python would keep the last one, and lose the others without a word.
        raise ValueError(f"the key {quoted(name)} is there twice")
    return content


def check_nesting(value: object, num_opened: int) -> None:
    """Check how deeply lists and objects are nested.

    Args:
        value: A JSON value.
        num_opened: How many opening brackets its text has. Counting them is much faster than
            walking through the value, and tells enough of nearly all values.

    Raises:
        ValueError: If it is nested more deeply than the limits allow.
    """
    limit = read_limits().nesting
    if num_opened > limit and _depth(value) > limit:
        raise nested_too_deeply()


def nested_too_deeply() -> ValueError:
    """Return the error for a value that is nested more deeply than the limits allow."""
    return ValueError(f"nested too deeply; expected {read_limits().at_most('nesting')}")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [i for item in level for i in (item.values() if isinstance(item, dict) else item)]
    return depth
