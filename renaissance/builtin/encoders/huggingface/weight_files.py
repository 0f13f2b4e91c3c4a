"""Checks of a checkpoint's weight files that read no weights."""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from renaissance import CheckpointError
from renaissance.builtin.encoders.huggingface.configs import is_local

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# The first words of the text file that stands for a large file in a git repository.
LFS_POINTER = b"version https://git-lfs"


def check_weight_files(where: str, checkpoint: str) -> None:
    """Check that the weight files are whole, as far as their headers and sizes tell.

    Of a hub id, only what is downloaded already is checked.

    Raises:
        CheckpointError: If a file is missing, cut off or no safetensors file; it names the file.
    """
    paths = weight_files(checkpoint)
    if not paths and is_local(checkpoint):
        raise CheckpointError(
            f"{where}: checkpoint: the folder '{checkpoint}' cannot be loaded: it has no "
            f"{WEIGHTS}; expected config.json and {WEIGHTS} as save_pretrained writes them"
        )
    for path in paths:
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{where}: checkpoint: {path}: {_reason(path, error)}") from error


def weight_files(checkpoint: str) -> list[Path]:
    """Return the files with weights that are on this machine, or that a folder should have.

    Raises:
        CheckpointError: If the list of files is damaged.
    """
    index = _path(checkpoint, INDEX)
    single = _path(checkpoint, WEIGHTS)
    # The library prefers the single file, too.
    if single is not None or index is None:
        return [] if single is None else [single]
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: cannot be read ({type(error).__name__}: {error}); download it again"
        ) from error
    # A part that is not downloaded yet is missing from the cache only.
    parts = [_path(checkpoint, str(name)) or index.parent / str(name) for name in sorted(names)]
    return [path for path in parts if path.exists() or is_local(checkpoint)]


def _path(checkpoint: str, name: str) -> Path | None:
    if is_local(checkpoint):
        path = Path(checkpoint) / name
        return path if path.exists() else None
    cached = try_to_load_from_cache(checkpoint, name)
    return Path(cached) if isinstance(cached, str) else None


def _reason(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "is missing; download it again"
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return (
                "is a git-lfs pointer, not the file itself; run 'git lfs pull' in that folder, or "
                "download the file"
            )
    return f"is cut off or damaged ({error}), {path.stat().st_size:,} bytes; download it again"
