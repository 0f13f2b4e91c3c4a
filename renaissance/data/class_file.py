"""A file that names classes in their order: one per line, or a JSON list."""

import json
from collections.abc import Iterator
from pathlib import Path

from renaissance.errors import DataError, quoted

EXPECTED = "expected the names of at least 2 classes, one per line, or a JSON list of them (.json)"


def read_class_file(path: Path) -> tuple[str, ...]:
    """Return the classes that a file names, in its order.

    Raises:
        DataError: If it cannot be read, or does not name two distinct classes or more; the message
            names file, line and value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = _json_entries(path, text) if path.suffix == ".json" else _lines(text)
        first_of: dict[str, str] = {}
        for where, entry in entries:
            name = entry.strip() if isinstance(entry, str) else ""
            if not name:
                raise DataError(f"{path}: {where}: {quoted(entry)} is not a name; {EXPECTED}")
            if name in first_of:
                raise DataError(
                    f"{path}: {where}: {quoted(name)} is there twice (also {first_of[name]}); "
                    "expected distinct classes. Remove one of the two"
                )
            first_of[name] = where
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {EXPECTED}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {EXPECTED}") from error
    if len(first_of) < 2:
        what = f"{quoted(next(iter(first_of)))} is the only class" if first_of else "no class there"
        where = f"{next(iter(first_of.values()))}: " if first_of else ""
        raise DataError(f"{path}: {where}{what}; {EXPECTED}")
    return tuple(first_of)


def _lines(text: str) -> Iterator[tuple[str, object]]:
    for index, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {index}", line


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, object]]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise DataError(f"{path}: a JSON {type(content).__name__}; {EXPECTED}")
    for index, entry in enumerate(content):
        yield f"entry {index}", entry
