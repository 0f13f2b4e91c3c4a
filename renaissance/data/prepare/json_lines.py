"""Reading JSON lines."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from renaissance.errors import DataError
from renaissance.limits import load_json, read_limits


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of each line that is not empty; `where` is its file and line.

    Raises:
        DataError: If a line is not a JSON object.
    """
    with path.open("rb") as file:
        for line_number, line in enumerate(bounded_lines(file, str(path)), start=1):
            if not line.strip():
                continue
            where = f"{path}: line {line_number}"
            try:
                content = load_json(line)
            except ValueError as error:
                raise DataError(
                    f"{where}: not valid JSON ({error}); expected one object per line. "
                    "Correct the line, or download the file again"
                ) from error
            if not isinstance(content, dict):
                raise DataError(
                    f"{where}: {type(content).__name__}; expected one JSON object per line. "
                    "Correct the line, or download the file again"
                )
            yield where, content


def bounded_lines(file: IO[bytes], where: str) -> Iterator[bytes]:
    """Yield the lines of a file, without a byte order mark; memory is bounded.

    Args:
        file: The file.
        where: What to call it in messages.

    Raises:
        DataError: If a line is longer than the limits allow.
    """
    number = 0
    limits = read_limits()
    while line := file.readline(limits.record_bytes + 1):
        number += 1
        if len(line) > limits.record_bytes:
            raise DataError(
                f"{where}: line {number} has more than {limits.record_bytes:,} bytes; expected one "
                f"record per line, of {limits.at_most('record_bytes')}. Correct the line, or raise "
                "the limit"
            )
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
