"""Predictions of a whole dataset, in parts, so that they can be resumed and shared among ranks."""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from renaissance.data.collate import Collator
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.sample_reader import BadSampleError
from renaissance.errors import DataError, SpecError
from renaissance.files import write_whole
from renaissance.inference.model import Model

# Rows of a part: what a run that is killed does anew.
PART_SIZE = 1024
# Micro-batches that are read while another is predicted.
NUM_AHEAD = 4
REQUEST = "request.json"


@attrs.frozen
class _Read:
    """A micro-batch, and the rows that cannot be read.

    Attributes:
        indices: All of its rows.
        batch: The rows that can be read; None if there are none.
        faults: What is wrong, by index of the row.
    """

    indices: Sequence[int]
    batch: MicroBatch | None
    faults: Mapping[int, str]


@attrs.frozen
class Parts:
    """Files of predictions, each of `PART_SIZE` rows, in a folder beside the output.

    Attributes:
        folder: The folder.
        num_rows: Rows of the dataset.
    """

    folder: Path
    num_rows: int

    def open(self, request: Mapping[str, object]) -> None:
        """Make the folder, or take up one that an interrupted command with this request left.

        Raises:
            SpecError: If the folder belongs to another request.
        """
        content = json.dumps(request, indent=1, ensure_ascii=False) + "\n"
        path = self.folder / REQUEST
        if path.is_file():
            if path.read_text(encoding="utf-8") != content:
                raise SpecError(
                    f"--output: {self.folder} holds part of other predictions ({path}); delete it, "
                    "or choose another output"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    def indices(self) -> range:
        """Return the indices of all parts."""
        return range(-(-self.num_rows // PART_SIZE))

    def path(self, part: int) -> Path:
        """Return the file of a part, whether or not it exists."""
        return self.folder / f"part-{part:06d}.jsonl"

    def rows_of(self, part: int) -> range:
        """Return the indices of a part's rows."""
        return range(part * PART_SIZE, min((part + 1) * PART_SIZE, self.num_rows))

    def write(self, part: int, rows: list[dict[str, Any]]) -> None:
        """Write a part, whole or not at all."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.path(part), "".join(lines))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all parts."""
        for part in self.indices():
            with self.path(part).open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)


def predict_parts(
    model: Model,
    name: str,
    collator: Collator,
    parts: Iterable[range],
    batch_size: int,
    num_threads: int,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the predictions of each part of some rows, in order.

    Args:
        model: The model.
        name: The objective.
        collator: Makes micro-batches of the rows, for this objective.
        parts: Indices of the rows of each part.
        batch_size: Rows in one pass through the model.
        num_threads: Threads that read.
        done: Called with the number of rows after each pass.

    Yields:
        The predictions of a part: those of each row; {"index", "error"} for a row that cannot be
        read; nothing for a row that does not go to this objective.
    """
    batches = [
        [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for rows in parts
    ]
    with ThreadPoolExecutor(num_threads) as pool:
        reads = _read_ahead(pool, collator, name, itertools.chain.from_iterable(batches))
        for of_part in batches:
            predictions: list[dict[str, Any]] = []
            for indices, read in zip(of_part, reads, strict=False):
                predictions += _predict(model, name, read)
                done(len(indices))
            yield predictions


def _read_ahead(
    pool: ThreadPoolExecutor, collator: Collator, name: str, batches: Iterable[range]
) -> Iterator[_Read]:
    """Read micro-batches on the threads of a pool, some of them ahead."""
    waiting: deque[Future[_Read]] = deque()
    for indices in batches:
        chosen = [index for index in indices if collator.datasets.goes_to(index, name)]
        waiting.append(pool.submit(_read, collator, chosen))
        if len(waiting) > NUM_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(collator: Collator, indices: Sequence[int]) -> _Read:
    """Collate the rows that can be read."""
    faults: dict[int, str] = {}
    while len(faults) < len(indices):
        try:
            batch = collator[[(0, index) for index in indices if index not in faults]]
            return _Read(indices, batch, faults)
        except BadSampleError as error:
            faults[error.index] = str(error)
    return _Read(indices, None, faults)


def _predict(model: Model, name: str, read: _Read) -> list[dict[str, Any]]:
    predicted = [] if read.batch is None else model.predict_batch(read.batch, name)
    if not read.faults:
        # One per target, of which a row may have several.
        return predicted
    if len(predicted) != len(read.indices) - len(read.faults):
        raise DataError(
            f"objective '{name}' made {len(predicted)} predictions for "
            f"{len(read.indices) - len(read.faults)} rows; expected one per row, since others "
            f"cannot be read: {next(iter(read.faults.values()))}"
        )
    following = iter(predicted)
    return [
        {"index": index, "error": read.faults[index]} if index in read.faults else next(following)
        for index in read.indices
    ]
