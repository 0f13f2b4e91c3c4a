"""A checkpoint: a folder of safetensors and JSON that exists whole or not at all.

    step-00001000/  model.safetensors  optimizer.safetensors  state.json  spec.toml  manifest.json
                    window.safetensors, if it was saved between two log lines

Of a sharded network, each rank writes its rows, and index.json says which file has which of them:

    step-00001000/  model-00001-of-00004.safetensors  optimizer-00001-of-00004.safetensors  ...
                    index.json  state.json  spec.toml  manifest.json

It is written under another name, flushed to disk, then renamed. Nothing is pickled. Randomness is a
function of (seed, step, rank, micro-batch), so there is no generator state to save.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import tomli
import torch
from torch import Tensor, nn

from renaissance.engine.distributed import Ranks
from renaissance.engine.manifest import (
    INDEX,
    MODEL,
    OPTIMIZER,
    SPEC,
    STATE,
    is_in_shards,
    verify,
    write_manifest,
)
from renaissance.engine.optimizer_state import restore_optimizer, stored_for
from renaissance.engine.shards import StoredTensors
from renaissance.engine.snapshot import Snapshot
from renaissance.engine.tensors import aliases, first_few, read_tensors, write_tensors
from renaissance.engine.writing import begin_writing, finish_writing, write_part, write_snapshot
from renaissance.errors import CheckpointError, quoted
from renaissance.files import sha256_of


@attrs.define
class TrainState:
    """What a run needs, besides model and optimizer, to continue exactly where it stopped.

    Attributes:
        step: Optimizer steps done.
        position: Samples seen in the endless stream of epochs.
        num_samples: Size of the training data, which the stream depends on.
        seed: The run's seed, which the stream depends on.
        sampling_weights: Sampling weights of the training datasets, which the stream depends on;
            None if all samples are shuffled together.
        bad_samples: Indices of the unreadable records so far.
        best: Best value of the watched metric; None before the first evaluation. A checkpoint is
            saved before it is evaluated, so its own value is not in its state.
        num_worse: Evaluations since the best one; its own evaluation is not in its state either.
        scaler: State of fp16's gradient scaler.
        surroundings: What the run depends on besides its spec; see `engine.agreement`.
    """

    step: int = 0
    position: int = 0
    num_samples: int = 0
    seed: int = 0
    sampling_weights: list[float] | None = None
    bad_samples: list[int] = attrs.field(factory=list)
    best: float | None = None
    num_worse: int = 0
    scaler: dict[str, Any] = attrs.field(factory=dict)
    surroundings: dict[str, str] = attrs.field(factory=dict)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: TrainState,
    spec_text: str,
    window: Mapping[str, Tensor] = MappingProxyType({}),
) -> Path:
    """Write a checkpoint, and wait until it is there: see `take_snapshot` and `write_snapshot`."""
    return write_snapshot(folder, take_snapshot(model, optimizer, state, spec_text, window))


def save_together(
    folder: Path, model: nn.Module, state: TrainState, spec_text: str, ranks: Ranks
) -> None:
    """Write a checkpoint of a sharded network without its optimizer; every rank must call it.

    Raises:
        RenaissanceError: On every rank, if it cannot be written.
    """
    ranks.on_all_ranks(lambda: begin_writing(folder) if ranks.is_main else None)
    snapshot = take_snapshot(model, None, state, spec_text)
    writes = snapshot.position is not None and snapshot.position.is_first
    own = ranks.on_all_ranks(lambda: write_part(folder, snapshot) if writes else {})
    texts = ranks.gather_text(json.dumps(own))
    digests = {name: digest for text in texts for name, digest in json.loads(text).items()}
    ranks.on_all_ranks(lambda: finish_writing(folder, snapshot, digests) if ranks.is_main else None)


def take_snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: TrainState,
    spec_text: str,
    window: Mapping[str, Tensor] = MappingProxyType({}),
) -> Snapshot:
    """Copy what a checkpoint holds, so that training can go on while it is written.

    Args:
        model: The network (model and objectives).
        optimizer: Its optimizer, or None to leave its state out.
        state: How far the run is.
        spec_text: The resolved spec, TOML.
        window: The figures of the log window that the checkpoint cuts short.
    """
    versions = {name: version(name) for name in ("renaissance", "torch", "transformers")}
    record = json.dumps({**attrs.asdict(state), "versions": versions}, indent=1)
    return Snapshot.of(model, optimizer, record, spec_text, window)


def copy_checkpoint(source: Path, folder: Path, spec_text: str) -> None:
    """Copy a checkpoint without its optimizer into a folder, which may hold other files.

    One that is in shards becomes whole.

    Args:
        source: The checkpoint.
        folder: An existing folder.
        spec_text: The resolved spec, TOML.

    Raises:
        CheckpointError: If the source is missing or damaged.
        OSError: If the copy cannot be written.
    """
    verify(source)
    if is_in_shards(source):
        write_tensors(folder / MODEL, _read_model(source), {})
    else:
        shutil.copyfile(source / MODEL, folder / MODEL)
    shutil.copyfile(source / STATE, folder / STATE)
    (folder / SPEC).write_text(spec_text, encoding="utf-8")
    write_manifest(folder, {name: sha256_of(folder / name) for name in (MODEL, STATE, SPEC)})


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainState:
    """Load a checkpoint into a network and its optimizer; every tensor must match.

    Of a sharded network, only the rows of this rank are read.

    Args:
        folder: The checkpoint.
        model: The network (model and objectives).
        optimizer: Its optimizer, or None to leave its state alone.

    Raises:
        CheckpointError: If it is missing or damaged, or of another model or optimizer.
    """
    verify(folder)
    return load_verified(folder, model, optimizer)


def load_verified(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainState:
    """Load a checkpoint whose files have been compared with its manifest; see `load_checkpoint`."""
    _load_model(folder, model)
    if optimizer is not None:
        restore_optimizer(_stored(folder, "optimizer", OPTIMIZER), model, optimizer)
    return _read_state(folder / STATE)


def load_model_tensors(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's parameters and buffers by name, tied ones by their first name only.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    verify(folder)
    return _read_model(folder)


def load_spec_tables(folder: Path) -> dict[str, Any]:
    """Return the resolved spec of the run that wrote a checkpoint, as nested tables.

    Raises:
        CheckpointError: If it cannot be read.
    """
    path = folder / SPEC
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as TOML: {error}") from error


def _read_state(path: Path) -> TrainState:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    # The record also has the versions, which are for people.
    known = attrs.fields_dict(TrainState)
    values = {k: v for k, v in record.items() if k in known} if isinstance(record, dict) else {}
    faults = [
        f"{name}: got {quoted(values.get(name))}, expected an integer"
        for name, field in known.items()
        if field.type is int and type(values.get(name)) is not int
    ]
    if faults:
        raise CheckpointError(f"{path}: malformed: {first_few(faults)}")
    return TrainState(**values)


def _stored(folder: Path, kind: str, name: str) -> StoredTensors:
    """Return the tensors of one kind, in shards or in the file of this name."""
    if is_in_shards(folder):
        return StoredTensors.of_index(folder / INDEX, kind)
    return StoredTensors.of_file(folder / name)


def _read_model(folder: Path) -> dict[str, Tensor]:
    if not is_in_shards(folder):
        return read_tensors(folder / MODEL)
    stored = _stored(folder, "model", MODEL)
    return {name: stored.whole(name) for name in stored.shapes}


def _load_model(folder: Path, model: nn.Module) -> None:
    expected = model.state_dict()
    stored = _stored(folder, "model", MODEL)
    shapes = dict(stored.shapes)
    # Tied tensors are saved once, but the state dict has each of their names.
    tied = {n: first for n, first in aliases(expected).items() if n not in shapes}
    shapes |= {name: shapes[first] for name, first in tied.items() if first in shapes}
    faults = [f"{name}: missing" for name in expected if name not in shapes]
    faults += [f"{name}: not in this model" for name in sorted(shapes) if name not in expected]
    faults += [
        f"{name}: shape {shapes[name]}, this model has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in shapes and shapes[name] != tuple(tensor.shape)
    ]
    if faults:
        raise CheckpointError(
            f"{folder} is a checkpoint of another model: {first_few(faults)}. Use the spec.toml in "
            "that folder, or another run.name for a new run"
        )
    read = {n: stored_for(tensor, stored, tied.get(n, n)) for n, tensor in expected.items()}
    model.load_state_dict(read)
