"""Reading JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from renaissance.errors import DataError


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of each line that is not empty; `where` is its file and line.

    Raises:
        DataError: If a line is not a JSON object.
    """
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}: line {line_number}"
            try:
                content = json.loads(line)
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
