"""A checkpoint: a folder of safetensors and JSON that exists whole or not at all.

    step-00001000/  model.safetensors  optimizer.safetensors  state.json  spec.toml  manifest.json
                    window.safetensors, if it was saved between two log lines

It is written under another name, flushed to disk, then renamed. Nothing is pickled. Randomness is a
function of (seed, step, rank, micro-batch), so there is no generator state to save.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import tomli
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from renaissance.engine.snapshot import Snapshot
from renaissance.engine.tensors import (
    aliases,
    first_few,
    load_optimizer,
    read_tensors,
    write_tensors,
)
from renaissance.errors import CheckpointError, quoted
from renaissance.files import PARTIAL, flush_to_disk, remove, sha256_of

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
SPEC = "spec.toml"
MANIFEST = "manifest.json"
# Appended to the name of a checkpoint while another one takes its place.
REPLACED = ".replaced"
# A checkpoint without the optimizer can still be evaluated.
REQUIRED = (MODEL, STATE, SPEC)
WINDOW = "window.safetensors"
OPTIONAL = (OPTIMIZER, WINDOW)
SHA256 = re.compile("[0-9a-f]{64}")


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


def write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint; call on one rank, in any thread.

    Args:
        folder: The folder to write; one that exists is replaced.
        snapshot: What to write.

    Returns:
        The folder.

    Raises:
        CheckpointError: If it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        remove(partial)
        partial.mkdir(parents=True)
        _write_files(partial, snapshot)
        for path in partial.iterdir():
            flush_to_disk(path)
        flush_to_disk(partial)
        _put_in_place(partial, folder)
    except (OSError, SafetensorError) as error:
        # What is left of it would take the space that others need.
        with contextlib.suppress(OSError):
            remove(partial)
        raise CheckpointError(
            f"{folder}: cannot write the checkpoint: {error}; free space or change run.output_dir"
        ) from error
    return folder


def copy_checkpoint(source: Path, folder: Path, spec_text: str) -> None:
    """Copy a checkpoint without its optimizer into a folder, which may hold other files.

    Args:
        source: The checkpoint.
        folder: An existing folder.
        spec_text: The resolved spec, TOML.

    Raises:
        CheckpointError: If the source is missing or damaged.
        OSError: If the copy cannot be written.
    """
    verify(source)
    for name in (MODEL, STATE):
        shutil.copyfile(source / name, folder / name)
    (folder / SPEC).write_text(spec_text, encoding="utf-8")
    _write_manifest(folder, {name: sha256_of(folder / name) for name in (MODEL, STATE, SPEC)})


def model_sha256(folder: Path) -> str:
    """Return the digest of a checkpoint's parameters, as its manifest has it.

    Raises:
        CheckpointError: If there is no manifest, or it is malformed.
    """
    return str(_read_manifest(folder)[MODEL]["sha256"])


def restore_replaced(checkpoints: Path) -> None:
    """Undo a replacement that was interrupted: bring back a checkpoint that was moved aside."""
    for aside in checkpoints.glob(f".*{REPLACED}"):
        folder = aside.with_name(aside.name.removeprefix(".").removesuffix(REPLACED))
        if folder.exists():
            remove(aside)
        else:
            aside.rename(folder)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainState:
    """Load a checkpoint into a network and its optimizer; every tensor must match.

    Args:
        folder: The checkpoint.
        model: The network (model and objectives).
        optimizer: Its optimizer, or None to leave its state alone.

    Raises:
        CheckpointError: If it is missing or damaged, or of another model or optimizer.
    """
    verify(folder)
    _load_model(folder, model, read_tensors(folder / MODEL))
    if optimizer is not None:
        load_optimizer(folder / OPTIMIZER, model, optimizer)
    return _read_state(folder / STATE)


def load_model_tensors(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's parameters and buffers by name, tied ones by their first name only.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    verify(folder)
    return read_tensors(folder / MODEL)


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


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a whole checkpoint."""
    return (folder / MANIFEST).is_file()


def verify(folder: Path) -> None:
    """Compare sizes and digests of a checkpoint's files with its manifest.

    Raises:
        CheckpointError: If there is no manifest, or it does not name exactly the files of the
            checkpoint, or a file is damaged.
    """
    for name, expected in _read_manifest(folder).items():
        path = folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
            is_whole = size == expected["size"] and sha256_of(path) == expected["sha256"]
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        if not is_whole:
            actual = "missing" if size is None else f"{size} bytes with another digest"
            raise CheckpointError(
                f"{path}: damaged: {actual}, expected {expected['size']} bytes; restore it from a "
                "copy, or use another checkpoint"
            )


def _put_in_place(partial: Path, folder: Path) -> None:
    """Give a checkpoint its name; one that has the name is deleted last."""
    aside = folder.with_name(f".{folder.name}{REPLACED}")
    # No two folders can be exchanged at once: see `restore_replaced`.
    if folder.exists() or folder.is_symlink():
        remove(aside)
        folder.rename(aside)
    partial.rename(folder)
    flush_to_disk(folder.parent)
    remove(aside)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return the size and digest of each file; a manifest that leaves one out vouches for less."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: no readable {MANIFEST}: {error}") from error
    names = [*REQUIRED, *(name for name in OPTIONAL if (folder / name).exists())]
    entries = manifest if isinstance(manifest, dict) else {}
    faults = [f"{name}: missing" for name in names if name not in entries]
    faults += [
        f"{quoted(name)}: not a file of a checkpoint"
        for name in entries
        if name not in (*REQUIRED, *OPTIONAL)
    ]
    faults += [
        f"{quoted(name)}: got {quoted(entry)}"
        for name, entry in entries.items()
        if not _is_entry(entry)
    ]
    if faults:
        raise CheckpointError(
            f"{folder / MANIFEST}: malformed: {first_few(faults)}; expected size and sha256 of "
            f"{', '.join(names)}; restore it from a copy, or use another checkpoint"
        )
    return entries


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        return False
    size, sha256 = entry["size"], entry["sha256"]
    is_size = type(size) is int and 0 <= size < 2**63
    return is_size and isinstance(sha256, str) and SHA256.fullmatch(sha256) is not None


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


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    snapshot.wait()
    # Hashed while they are written: the digest is that of the tensors, whatever the disk does.
    digests = {MODEL: write_tensors(folder / MODEL, snapshot.model, {})}
    if snapshot.optimizer is not None:
        metadata = {"optimizer": snapshot.optimizer_type}
        digests[OPTIMIZER] = write_tensors(folder / OPTIMIZER, snapshot.optimizer, metadata)
    if snapshot.window:
        digests[WINDOW] = write_tensors(folder / WINDOW, snapshot.window, {})
    for name, text in ((STATE, snapshot.state), (SPEC, snapshot.spec_text)):
        (folder / name).write_text(text, encoding="utf-8")
        digests[name] = sha256_of(folder / name)
    _write_manifest(folder, digests)


def _write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    manifest = {
        name: {"size": (folder / name).stat().st_size, "sha256": digests[name]}
        for name in sorted(digests)
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _load_model(folder: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    # Tied tensors are saved once, but the state dict has each of their names.
    for name, first_name in aliases(expected).items():
        if first_name in tensors:
            tensors.setdefault(name, tensors[first_name])
    faults = [f"{name}: missing" for name in expected if name not in tensors]
    faults += [f"{name}: not in this model" for name in sorted(tensors) if name not in expected]
    faults += [
        f"{name}: shape {tuple(tensors[name].shape)}, this model has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(
            f"{folder} is a checkpoint of another model: {first_few(faults)}. Use the spec.toml in "
            "that folder, or another run.name for a new run"
        )
    model.load_state_dict(tensors)
