"""Records of one table, kept on disk until they are written."""

import array
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from renaissance.contracts.source import ImageFile, Record


class RecordStore:
    """Records of one table, in a nameless file: memory grows by 8 bytes per record.

    Args:
        folder: Folder with room for the file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open while this lives
        self._ends = array.array("q", [0])
        self._sha256 = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: Record, stamps: Sequence[str]) -> None:
        """Add a record; the stamps of its images affect only the digest."""
        images = {column: attrs.astuple(image) for column, image in record.images.items()}
        line = json.dumps([record.table, images, record.values, record.num_texts]).encode()
        self._file.write(line)
        self._sha256.update(line + ";".join(stamps).encode())
        self._ends.append(self._ends[-1] + len(line))

    def finish(self) -> str:
        """Return the digest of all records, which can be read from now on."""
        self._file.flush()
        return self._sha256.hexdigest()

    def __getitem__(self, index: int) -> Record:
        start, end = self._ends[index], self._ends[index + 1]
        # No seek: threads share the file.
        table, images, values, num_texts = json.loads(
            os.pread(self._file.fileno(), end - start, start)
        )
        files = {column: ImageFile(*image) for column, image in images.items()}
        return Record(table, files, values, num_texts)
