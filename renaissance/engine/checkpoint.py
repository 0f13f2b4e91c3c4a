"""Checkpoints: a folder of safetensors and JSON that exists whole or not at all.

    step-00001000/  model.safetensors  optimizer.safetensors  state.json  spec.toml  manifest.json

Written beside, flushed to disk, then renamed; nothing is pickled. Randomness is a function of
(seed, step, rank), so there is no generator state to keep.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from renaissance.errors import CheckpointError

FOLDER_PATTERN = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
NUM_NAMED = 5


@attrs.define
class TrainState:
    """What a run needs beside its weights to go on exactly where it was.

    Attributes:
        step: Optimizer steps done.
        position: Samples seen in the endless stream of epochs.
        num_samples: Size of the training data, which the stream depends on.
        seed: The run's seed, which the stream depends on.
        weights: Weights of the training datasets, which it depends on as well.
        num_bad_samples: Unreadable records met.
        best: Best value of the watched metric, None before the first evaluation.
        scaler: State of fp16's gradient scaler.
    """

    step: int = 0
    position: int = 0
    num_samples: int = 0
    seed: int = 0
    weights: list[float] | None = None
    num_bad_samples: int = 0
    best: float | None = None
    scaler: dict[str, Any] = attrs.field(factory=dict)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: TrainState,
    spec_text: str,
) -> Path:
    """Write a checkpoint; call on one rank.

    Args:
        folder: Where it shall stand.
        model: The network (model and objectives).
        optimizer: Its optimizer, or None to leave its state out.
        state: Where the run is.
        spec_text: The resolved spec, TOML.

    Raises:
        CheckpointError: If the disk does not take it.
    """
    partial = folder.parent / f".{folder.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_unshared(model.state_dict()), partial / "model.safetensors")
        if optimizer is not None:
            tensors = optimizer_tensors(model, optimizer)
            save_file(tensors, partial / "optimizer.safetensors")
        record = {**attrs.asdict(state), "versions": _versions()}
        (partial / "state.json").write_text(json.dumps(record, indent=1))
        (partial / "spec.toml").write_text(spec_text)
        manifest = {
            path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(partial.iterdir())
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in partial.iterdir():
            _flush(path)
        _flush(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _flush(folder.parent)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot write the checkpoint: {error}; free space or change run.output_dir"
        ) from error
    return folder


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> TrainState:
    """Load a checkpoint strictly into a network and its optimizer.

    Raises:
        CheckpointError: If it is missing or damaged, or its tensors are not the model's.
    """
    verify(folder)
    _load_strictly(folder, model, _read(folder / "model.safetensors"))
    if optimizer is not None:
        tensors = _read(folder / "optimizer.safetensors")
        load_optimizer_tensors(folder, model, optimizer, tensors)
    record = json.loads((folder / "state.json").read_text())
    known = attrs.fields_dict(TrainState)
    return TrainState(**{key: value for key, value in record.items() if key in known})


def load_model_tensors(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights by their names; tied ones under the first of theirs alone.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    verify(folder)
    return _read(folder / "model.safetensors")


def _load_strictly(folder: Path, model: nn.Module, found: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    for name, original in aliases(expected).items():
        if original in found:
            found.setdefault(name, found[original])
    faults = [f"{name}: missing" for name in expected if name not in found]
    faults += [f"{name}: not in this model" for name in sorted(found) if name not in expected]
    faults += [
        f"{name}: shape {tuple(found[name].shape)}, this model has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - NUM_NAMED} more" if len(faults) > NUM_NAMED else ""
        raise CheckpointError(
            f"{folder} is a checkpoint of another model: {'; '.join(faults[:NUM_NAMED])}{more}. "
            "Use the spec.toml in that folder, or another run.name for a new run"
        )
    model.load_state_dict(found)


def find_checkpoint(run_or_checkpoint: Path, prefer_best: bool) -> Path:
    """Return a checkpoint folder, given one or a run folder.

    Args:
        run_or_checkpoint: A checkpoint's folder, or a run's.
        prefer_best: Of a run, take the best checkpoint if there is one, else the last.

    Raises:
        CheckpointError: If there is none.
    """
    if (run_or_checkpoint / MANIFEST).is_file():
        return run_or_checkpoint
    checkpoints = run_or_checkpoint / "checkpoints"
    best = checkpoints / "best"
    if prefer_best and (best / MANIFEST).is_file():
        return best.resolve()
    found = list_checkpoints(checkpoints)
    if not found:
        raise CheckpointError(
            f"{run_or_checkpoint}: no checkpoint there; expected a folder with {MANIFEST}, or a "
            "run folder with checkpoints/step-*"
        )
    return found[-1]


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [
        path
        for path in checkpoints.iterdir()
        if FOLDER_PATTERN.fullmatch(path.name) and (path / MANIFEST).is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def keep_checkpoints(checkpoints: Path, keep_last: int) -> None:
    """Delete all but the newest ones and the best; and what interrupted writes left behind."""
    best = checkpoints / "best"
    keep = {path.name for path in list_checkpoints(checkpoints)[-keep_last:]}
    if best.is_symlink():
        keep.add(best.readlink().name)
    for path in list(checkpoints.iterdir()):
        is_checkpoint = FOLDER_PATTERN.fullmatch(path.name) and path.name not in keep
        if is_checkpoint or path.name.endswith(".partial"):
            shutil.rmtree(path)


def mark_best(folder: Path) -> None:
    """Point `checkpoints/best` to a checkpoint, in one move."""
    link = folder.parent / ".best.partial-link"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / "best")


def verify(folder: Path) -> None:
    """Check sizes and checksums against the manifest.

    Raises:
        CheckpointError: Naming the damaged file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no readable {MANIFEST}: {error}") from error
    for name, expected in manifest.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["size"] or _sha256(path) != expected["sha256"]:
            found = "missing" if size is None else f"{size} bytes with another checksum"
            raise CheckpointError(
                f"{path}: damaged: {found}, expected {expected['size']} bytes; delete the folder "
                f"{folder} to go on from the checkpoint before it"
            )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state by "<parameter>/<name>", independent of groups and order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> None:
    """Put the state back, strictly: every trained parameter must find its own.

    Raises:
        CheckpointError: If the state is of another optimizer or of other trained parameters.
    """
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        by_parameter.setdefault(name, {})[entry] = tensor
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    differing = sorted(set(trained) ^ set(by_parameter))
    if differing:
        raise CheckpointError(
            f"{folder}: the optimizer's state is of other trained parameters, first: "
            f"{', '.join(differing[:NUM_NAMED])}; frozen modules, objectives and the optimizer "
            "must be those of the run that is resumed"
        )
    for name, parameter in trained.items():
        # Fused optimizers keep "step" on the parameter's device.
        optimizer.state[parameter] = {
            entry: tensor.to(parameter.device) for entry, tensor in by_parameter[name].items()
        }


def aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return tied tensors by name, each with the first name of the same memory."""
    first: dict[tuple[int, int, int], str] = {}
    found = {}
    for name, tensor in tensors.items():
        # Not the data's address, which is the same for all tensors on the meta device.
        storage = tensor.untyped_storage()._cdata
        key = (storage, int(tensor.storage_offset()), tensor.numel())
        if tensor.numel() and key in first:
            found[name] = first[key]
        else:
            first[key] = name
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory (tied weights): each is stored once.
    tied = aliases(tensors)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if name not in tied
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("renaissance", "torch", "transformers")}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
