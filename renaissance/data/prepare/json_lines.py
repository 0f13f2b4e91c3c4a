"""Reading JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from renaissance.errors import DataError


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place (file and line, for messages) and content of each line that has any.

    Raises:
        DataError: If a line is no JSON object.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}: line {number}"
            try:
                content = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{place}: not valid JSON ({error}); expected one object a line. "
                    "Correct the line, or download the file again"
                ) from error
            if not isinstance(content, dict):
                raise DataError(
                    f"{place}: {type(content).__name__}; expected one JSON object a line. "
                    "Correct the line, or download the file again"
                )
            yield place, content
