"""Writing a checkpoint: under another name, flushed to disk, then renamed.

Parts may be written by several ranks; one of them begins and finishes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError

from renaissance.engine.manifest import (
    INDEX,
    MODEL,
    OPTIMIZER,
    SPEC,
    STATE,
    WINDOW,
    shard_name,
    write_manifest,
)
from renaissance.engine.snapshot import Snapshot
from renaissance.engine.tensors import write_tensors
from renaissance.errors import CheckpointError
from renaissance.files import PARTIAL, flush_to_disk, remove, sha256_of

# Appended to the name of a checkpoint while another one takes its place.
REPLACED = ".replaced"


def write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint that is not in shards; call on one rank, in any thread.

    Args:
        folder: The folder to write; one that exists is replaced.
        snapshot: What to write.

    Returns:
        The folder.

    Raises:
        CheckpointError: If it cannot be written.
    """
    try:
        begin_writing(folder)
        finish_writing(folder, snapshot, write_part(folder, snapshot))
    except CheckpointError:
        abandon(folder)
        raise
    return folder


def begin_writing(folder: Path) -> None:
    """Make the folder in which a checkpoint is until it is whole; call on one rank.

    Raises:
        CheckpointError: If it cannot be made.
    """
    with _telling(folder):
        remove(_partial(folder))
        _partial(folder).mkdir(parents=True)


def write_part(folder: Path, snapshot: Snapshot) -> dict[str, str]:
    """Write parameters and optimizer state: all, or those of a shard.

    Returns:
        The digest of each file, by its name.

    Raises:
        CheckpointError: If they cannot be written.
    """
    snapshot.wait()
    partial, place = _partial(folder), snapshot.position

    def name(kind: str, whole: str) -> str:
        return whole if place is None else shard_name(kind, place.index, place.count)

    # Hashed while they are written: the digest is that of the tensors, whatever the disk does.
    digests = {}
    with _telling(folder):
        path = partial / name("model", MODEL)
        digests[path.name] = write_tensors(path, snapshot.model, {})
        if snapshot.optimizer is not None:
            path = partial / name("optimizer", OPTIMIZER)
            metadata = {"optimizer": snapshot.optimizer_type}
            digests[path.name] = write_tensors(path, snapshot.optimizer, metadata)
        for written in digests:
            flush_to_disk(partial / written)
    return digests


def finish_writing(folder: Path, snapshot: Snapshot, digests: Mapping[str, str]) -> None:
    """Write the rest of a checkpoint, and give it its name; call on one rank.

    Args:
        folder: The folder to write.
        snapshot: What the checkpoint holds.
        digests: Those of all that `write_part` has written, on any rank.

    Raises:
        CheckpointError: If it cannot be written.
    """
    partial = _partial(folder)
    digests = dict(digests)
    texts = {STATE: snapshot.state, SPEC: snapshot.spec_text}
    if snapshot.position is not None:
        texts[INDEX] = snapshot.index
    with _telling(folder):
        if snapshot.window:
            digests[WINDOW] = write_tensors(partial / WINDOW, snapshot.window, {})
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
            digests[name] = sha256_of(partial / name)
        write_manifest(partial, digests)
        for path in partial.iterdir():
            flush_to_disk(path)
        flush_to_disk(partial)
        _put_in_place(partial, folder)


def abandon(folder: Path) -> None:
    """Delete what was written of a checkpoint: it would take the space that others need."""
    with contextlib.suppress(OSError):
        remove(_partial(folder))


def restore_replaced(checkpoints: Path) -> None:
    """Undo a replacement that was interrupted: bring back a checkpoint that was moved aside."""
    for aside in checkpoints.glob(f".*{REPLACED}"):
        folder = aside.with_name(aside.name.removeprefix(".").removesuffix(REPLACED))
        if folder.exists():
            remove(aside)
        else:
            aside.rename(folder)


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Say what to do if a checkpoint cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot write the checkpoint: {error}; free space or change run.output_dir"
        ) from error


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{PARTIAL}")


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
