"""The manifest of a checkpoint: which files it has, with their sizes and digests."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from renaissance.engine.tensors import first_few
from renaissance.errors import CheckpointError, quoted
from renaissance.files import sha256_of

MANIFEST = "manifest.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
SPEC = "spec.toml"
WINDOW = "window.safetensors"
# Of a checkpoint in shards: which file has which rows of each tensor.
INDEX = "index.json"
SHARD = re.compile(r"(model|optimizer)-(\d{5})-of-(\d{5})\.safetensors")
SHA256 = re.compile("[0-9a-f]{64}")


def shard_name(kind: str, index: int, count: int) -> str:
    """Return the name of a file with the rows of one rank.

    Args:
        kind: "model" or "optimizer".
        index: Index of the shard.
        count: Number of shards.
    """
    return f"{kind}-{index + 1:05d}-of-{count:05d}.safetensors"


def shard_names(kind: str, count: int) -> list[str]:
    """Return the names of all shards."""
    return [shard_name(kind, index, count) for index in range(count)]


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a whole checkpoint."""
    return (folder / MANIFEST).is_file()


def is_in_shards(folder: Path) -> bool:
    """Return whether a checkpoint is in shards, one for each rank that saved it."""
    return (folder / INDEX).is_file()


def verify(folder: Path) -> None:
    """Compare sizes and digests of a checkpoint's files with its manifest.

    Raises:
        CheckpointError: If there is no manifest, or it does not name exactly the files of the
            checkpoint, or a file is damaged.
    """
    for name, expected in read_manifest(folder).items():
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


def model_sha256(folder: Path) -> str:
    """Return the digest of a checkpoint's parameters: of its file, or of the digests of its shards.

    Raises:
        CheckpointError: If there is no manifest, or it is malformed.
    """
    entries = read_manifest(folder)
    if MODEL in entries:
        return str(entries[MODEL]["sha256"])
    names = sorted(name for name in entries if name == INDEX or name.startswith("model-"))
    digests = "\n".join(entries[name]["sha256"] for name in names)
    return hashlib.sha256(digests.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the size and digest of each file; a manifest that leaves one out vouches for less.

    Raises:
        CheckpointError: If there is none, or it is malformed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found = {path.name for path in folder.iterdir()}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: no readable {MANIFEST}: {error}") from error
    entries = manifest if isinstance(manifest, dict) else {}
    required, optional = _names(found | set(entries))
    names = [*required, *(name for name in optional if name in found)]
    faults = [f"{name}: missing" for name in names if name not in entries]
    faults += [
        f"{quoted(name)}: not a file of a checkpoint"
        for name in entries
        if name not in (*required, *optional)
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


def write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the manifest of files whose digests are known.

    Raises:
        OSError: If it cannot be written.
    """
    manifest = {
        name: {"size": (folder / name).stat().st_size, "sha256": digests[name]}
        for name in sorted(digests)
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _names(found: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the files that a checkpoint must have, and may have, judging by those that are there.

    One without the optimizer can still be evaluated.
    """
    shards = [match for name in found if (match := SHARD.fullmatch(name))]
    if INDEX not in found and not shards:
        return [MODEL, STATE, SPEC], [OPTIMIZER, WINDOW]
    count = max((int(shard[3]) for shard in shards), default=1)
    required = [INDEX, *shard_names("model", count), STATE, SPEC]
    if any(shard[1] == "optimizer" for shard in shards):
        required += shard_names("optimizer", count)
    return required, [WINDOW]


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        return False
    size, sha256 = entry["size"], entry["sha256"]
    is_size = type(size) is int and 0 <= size < 2**63
    return is_size and isinstance(sha256, str) and SHA256.fullmatch(sha256) is not None
