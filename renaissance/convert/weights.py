"""What another tool's checkpoint holds: tensors by name, and settings."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from renaissance.convert import unpickle
from renaissance.convert.unpickle import MORE, REFUSED, SETTINGS
from renaissance.errors import CheckpointError
from renaissance.hub import download

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What older folders have instead.
PICKLED = "pytorch_model.bin"
# What to do with a file of more than tensors.
TRUSTED = (
    "expected tensors and plain values alone, since an object may run code. If you trust the file, "
    "write its tensors elsewhere: torch.save(torch.load(FILE, weights_only=False)['state_dict'], "
    "'weights.ckpt')"
)
HUB_FILES = ("*.json", "*.txt", "*.safetensors")


@attrs.frozen
class Weights:
    """A checkpoint that was read.

    Attributes:
        source: Where it is, for messages.
        tensors: By name.
        settings: Of a file, those that its tool kept; of a folder, its config.json.
        folder: The folder, if it is one.
    """

    source: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    folder: Path | None = None


def read_weights(source: str) -> Weights:
    """Read a file (.ckpt, .pt, .bin or .safetensors), or a folder of transformers or its hub id.

    Raises:
        CheckpointError: If it is missing or damaged, or holds more than tensors.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix == ".safetensors":
            return Weights(source, *_read_safetensors(path))
        return Weights(source, *_unpickled(path))
    folder = path if path.is_dir() else _downloaded(source)
    return Weights(source, _tensors(folder), _read_json(folder / CONFIG), folder)


def _downloaded(name: str) -> Path:
    folder = download(name, HUB_FILES)
    # Most models have both forms, and one will do.
    return folder if any(folder.glob("*.safetensors")) else download(name, (PICKLED,))


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / PICKLED).is_file() and not any(folder.glob("*.safetensors")):
        return _unpickled(folder / PICKLED)[0]
    tensors: dict[str, Tensor] = {}
    for file in _files(folder):
        tensors |= _read_safetensors(file)[0]
    return tensors


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    names = _read_json(folder / INDEX).get("weight_map", {})
    return [folder / Path(name).name for name in sorted(set(names.values()))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); expected a folder as save_pretrained writes it, "
            "with config.json and model.safetensors, or a file of tensors"
        ) from error
    return content if isinstance(content, dict) else {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get(SETTINGS, "{}"))
        return load_file(path), settings
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); download it again"
        ) from error


def _unpickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pickled file in a process without network, which writes safetensors."""
    with TemporaryDirectory() as folder:
        output = Path(folder, WEIGHTS)
        # By its path, since it imports nothing of this package; -P keeps this folder out of it.
        command = [sys.executable, "-P", unpickle.__file__, str(path.absolute()), str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == REFUSED:
            reason = done.stdout.strip()
            raise CheckpointError(
                f"{path}: {reason}; {TRUSTED if reason.startswith(MORE) else 'download it again'}"
            )
        if done.returncode != 0:
            last = done.stderr.strip().rpartition("\n")[2]
            raise CheckpointError(f"{path}: reading it failed with {done.returncode}: {last}")
        return _read_safetensors(output)
