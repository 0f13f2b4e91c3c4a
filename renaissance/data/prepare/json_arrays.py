"""Reading large JSON files element by element."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from renaissance.errors import DataError
from renaissance.limits import check_nesting, nested_too_deeply, read_limits

CHUNK_CHARS = 1 << 20
SPACE = " \t\n\r"
DELIMITERS = frozenset(SPACE + ",:]}")

Hook = Callable[[dict[str, Any]], Any]


def json_elements(
    path: Path, key: str | None = None, object_hook: Hook | None = None
) -> Iterator[Any]:
    """Yield the elements of an array; memory does not grow with it.

    Args:
        path: The file: an array, or an object with arrays.
        key: Which array of the object; None for a file that is an array.
        object_hook: What to make of every object, as in `json.load`.

    Raises:
        DataError: If the file cannot be read or is not valid JSON.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for array_key, element in _Parser(file, object_hook).elements():
                if array_key == key:
                    yield element
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); expected the official annotations. "
            "Unpack or download the file again"
        ) from error


class _Parser:
    def __init__(self, file: IO[str], object_hook: Hook | None) -> None:
        self._file = file
        self._decoder = json.JSONDecoder(object_hook=object_hook)
        self._buffer = ""
        self._position = 0
        self._consumed = 0
        self._ended = False

    def elements(self) -> Iterator[tuple[str | None, Any]]:
        """Yield (None, element) of an array; (key, element) of each array of an object."""
        if self._peek() == "[":
            for element in self._array():
                yield None, element
        else:
            yield from self._object()
        if self._peek():
            raise ValueError(f"more text after its end, at character {self._offset()}")

    def _object(self) -> Iterator[tuple[str | None, Any]]:
        self._expect("{")
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            if self._peek() == "[":
                for element in self._array():
                    yield key, element
            else:
                self._value()
            if self._peek() != "}":
                self._expect(",")
        self._expect("}")

    def _array(self) -> Iterator[Any]:
        self._expect("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != "]":
                self._expect(",")
        self._expect("]")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except RecursionError:
                raise nested_too_deeply() from None
            except json.JSONDecodeError as error:
                limits = read_limits()
                if len(self._buffer) - self._position > limits.record_bytes:
                    raise ValueError(
                        f"more than {limits.record_bytes:,} characters in one value, at character "
                        f"{self._offset()}; expected {limits.at_most('record_bytes')}"
                    ) from None
                if not self._read_more():
                    offset = self._consumed + error.pos
                    raise ValueError(f"{error.msg} at character {offset}") from None
                continue
            # A number at the end of the buffer may go on after it: 1 of 12, -3 of -3.5e2.
            if self._buffer[end : end + 1] in DELIMITERS or not self._read_more():
                place = (self._position, end)
                check_nesting(value, sum(self._buffer.count(bracket, *place) for bracket in "[{"))
                self._position = end
                return value

    def _peek(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        while True:
            while self._position < len(self._buffer):
                character = self._buffer[self._position]
                if character not in SPACE:
                    return character
                self._position += 1
            if not self._read_more():
                return ""

    def _expect(self, character: str) -> None:
        actual = self._peek()
        if actual != character:
            shown = repr(actual) if actual else "the end of the file"
            raise ValueError(f"expected {character!r}, got {shown} at character {self._offset()}")
        self._position += 1

    def _offset(self) -> int:
        return self._consumed + self._position

    def _read_more(self) -> bool:
        # A value is parsed again from its start: doubling what is read keeps that linear.
        size = max(CHUNK_CHARS, len(self._buffer) - self._position)
        chunk = "" if self._ended else self._file.read(size)
        if not chunk:
            self._ended = True
            return False
        self._consumed += self._position
        self._buffer = self._buffer[self._position :] + chunk
        self._position = 0
        return True
