"""Tensors of which each rank has some rows: whose rows are whose, and how files keep them.

`index.json` of a checkpoint says of each tensor which file has which rows. Any number of ranks can
read it, each only the rows that it needs. A plain safetensors file is read in the same way.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from renaissance.engine.manifest import SHARD, shard_name
from renaissance.engine.tensors import DTYPES, is_in_rows
from renaissance.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Replicate, Shard

BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


@attrs.frozen
class Position:
    """Which shard a rank has.

    Attributes:
        index: Index of the shard.
        count: Number of shards.
        is_first: Whether the rank is the first one that has it; on several nodes, each has all.
    """

    index: int
    count: int
    is_first: bool


def position_in(tensor: Tensor) -> Position | None:
    """Return which shard of a tensor this rank has; None if it is not sharded."""
    if not is_in_rows(tensor):
        return None
    mesh = tensor.device_mesh
    *nodes, index = mesh.get_coordinate() or [0]
    return Position(index, mesh.size(mesh.ndim - 1), not any(nodes))


def position_of(network: nn.Module) -> Position | None:
    """Return which shard of a network this rank has; None if it is not sharded."""
    positions = (position_in(parameter) for parameter in network.parameters())
    return next((position for position in positions if position is not None), None)


def by_rows(tensor: Tensor) -> Tensor:
    """Return a tensor that is either sharded by its rows or whole; every rank must call it."""
    if not is_in_rows(tensor):
        return tensor
    if not tensor.ndim:
        return tensor.full_tensor()
    placements = _placements(tensor)
    is_so = tuple(tensor.placements) == tuple(placements)
    return tensor if is_so else tensor.redistribute(placements=placements)


def row_range(num_rows: int, position: Position) -> tuple[int, int]:
    """Return the first row of a shard, and the one after its last."""
    size = -(-num_rows // position.count)
    start = min(num_rows, position.index * size)
    return start, min(num_rows, start + size)


def sharded_like(parameter: Tensor, rows: Tensor, shape: tuple[int, ...]) -> "DTensor":
    """Return a tensor of which each rank has some rows, on the ranks of a parameter.

    Args:
        parameter: The parameter.
        rows: The rows of this rank.
        shape: Shape of the whole tensor.
    """
    if not is_in_rows(parameter):
        raise TypeError("the parameter is not sharded")
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        rows,
        parameter.device_mesh,
        _placements(parameter),
        run_check=False,
        shape=torch.Size(shape),
        stride=stride,
    )


def index_of(tensors: Mapping[str, Tensor], kind: str, count: int) -> dict[str, Any]:
    """Return the part of an index that is about some tensors.

    Args:
        tensors: By name; those that are not sharded are in the first file.
        kind: "model" or "optimizer".
        count: Number of shards.
    """
    index = {}
    for name, tensor in tensors.items():
        num_rows = tensor.shape[0] if tensor.ndim else 1
        positions = [Position(i, count, True) for i in range(count)]
        ranges = (
            [(position.index, *row_range(num_rows, position)) for position in positions]
            if is_in_rows(tensor)
            else [(0, 0, num_rows)]
        )
        index[name] = {
            "shape": list(tensor.shape),
            "dtype": DTYPES[tensor.dtype],
            "rows": [
                [shard_name(kind, shard, count), start, stop]
                for shard, start, stop in ranges
                if start < stop
            ],
        }
    return index


def own_part(tensors: Mapping[str, Tensor], position: Position) -> dict[str, Tensor]:
    """Return what a rank writes of some tensors."""
    part = {}
    for name, tensor in tensors.items():
        if is_in_rows(tensor):
            rows = tensor.to_local()
            if rows.shape[0]:
                part[name] = rows
        elif position.index == 0:
            part[name] = tensor
    return part


@attrs.frozen
class _Entry:
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[tuple[str, int, int], ...]


class StoredTensors:
    """Tensors in one or several safetensors files, read by rows.

    Args:
        source: The file, or the index; messages name it.
        entries: Where the rows of each tensor are, by its name.
        optimizer_type: The class whose state this is, as the file says.
    """

    def __init__(self, source: Path, entries: Mapping[str, _Entry], optimizer_type: str) -> None:
        self.source = source
        self.optimizer_type = optimizer_type
        self._entries = entries
        self._files: dict[str, Any] = {}

    @classmethod
    def of_file(cls, path: Path) -> "StoredTensors":
        """Return the tensors of one file.

        Raises:
            CheckpointError: If it cannot be read.
        """
        try:
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
                entries = {
                    name: _Entry(
                        tuple(part.get_shape()),
                        BY_NAME[part.get_dtype()],
                        ((path.name, 0, (part.get_shape() or [1])[0]),),
                    )
                    for name, part in slices.items()
                }
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
        return cls(path, entries, metadata.get("optimizer", "an unknown optimizer"))

    @classmethod
    def of_index(cls, path: Path, kind: str) -> "StoredTensors":
        """Return the tensors of one kind, "model" or "optimizer", in an index.

        Raises:
            CheckpointError: If it cannot be read.
        """
        try:
            index = json.loads(path.read_text())
            entries = {name: _entry(value) for name, value in index[kind].items()}
            optimizer_type = str(index["optimizer_type"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: malformed: {error!r}; restore it from a copy, or use another checkpoint"
            ) from error
        return cls(path, entries, optimizer_type)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def whole(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            CheckpointError: If it cannot be read.
        """
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return some rows of a tensor; a scalar counts as one row.

        Raises:
            CheckpointError: If they cannot be read.
        """
        entry = self._entries[name]
        found = [
            self._read(name, entry, file, max(start, first) - first, min(stop, end) - first)
            for file, first, end in entry.pieces
            if max(start, first) < min(stop, end)
        ]
        if not found:
            return torch.empty((0, *entry.shape[1:]), dtype=entry.dtype)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _read(self, name: str, entry: _Entry, file: str, start: int, stop: int) -> Tensor:
        path = self.source.parent / file
        try:
            if file not in self._files:
                self._files[file] = safe_open(path, "pt")
            opened = self._files[file]
            is_whole = not entry.shape or (start, stop) == (0, entry.shape[0])
            part: Tensor = (
                opened.get_tensor(name) if is_whole else opened.get_slice(name)[start:stop]
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
        expected = (stop - start, *entry.shape[1:]) if entry.shape else ()
        if tuple(part.shape) != expected or part.dtype != entry.dtype:
            raise CheckpointError(
                f"{path}: {name} is {tuple(part.shape)} of {part.dtype} there, but "
                f"{self.source.name} says {expected} of {entry.dtype}; use another checkpoint"
            )
        return part


def _placements(tensor: "DTensor") -> "list[Replicate | Shard]":
    from torch.distributed.tensor import Replicate, Shard

    return [*[Replicate()] * (tensor.device_mesh.ndim - 1), Shard(0)]


def _entry(value: Any) -> _Entry:
    shape = tuple(int(size) for size in value["shape"])
    pieces = tuple((str(file), int(start), int(stop)) for file, start, stop in value["rows"])
    end = 0
    for file, start, stop in pieces:
        if not SHARD.fullmatch(file) or start != end or stop <= start:
            raise ValueError(f"rows {start} to {stop} in {file!r}")
        end = stop
    if end != (shape[0] if shape else 1):
        raise ValueError(f"{end} rows of shape {shape}")
    return _Entry(shape, BY_NAME[value["dtype"]], pieces)
