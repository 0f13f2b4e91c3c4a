"""Whether the weights of a checkpoint are those that were published."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from renaissance import CheckpointError
from renaissance.builtin.encoders.huggingface.weight_files import weight_files

if TYPE_CHECKING:
    # Importing it takes two seconds, and only building a model needs it.
    from transformers import PreTrainedModel

SHA256 = re.compile("[0-9a-f]{64}")


def check_weights(where: str, checkpoint: str, model: PreTrainedModel) -> None:
    """Check that weights are finite and, where their sha256 is known, that the files have it.

    Args:
        where: Name of the encoder, with which messages begin.
        checkpoint: Hub id or local folder.
        model: The model that was loaded from it.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    for file in weight_files(checkpoint):
        expected = _expected_sha256(file)
        with file.open("rb") as opened:
            actual = hashlib.file_digest(opened, "sha256").hexdigest() if expected else None
        if actual != expected:
            raise CheckpointError(
                f"{where}: checkpoint: {file} is damaged: its SHA-256 begins with "
                f"{str(actual)[:12]}, expected {str(expected)[:12]}; download it again"
            )
    for name, tensor in model.state_dict().items():
        # A sum is not finite if a value is not, and needs no copy of the tensor.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()):
            raise CheckpointError(
                f"{where}: checkpoint: {name} of '{checkpoint}' has values that are not finite; "
                "the file is damaged: download it again"
            )


def _expected_sha256(file: Path) -> str | None:
    """Return the sha256 that a file should have, if that is known.

    The hub's cache names files by it; `hf download --local-dir` records it; a manifest.json beside
    the file, as checkpoints of runs have it, lists it.
    """
    blob = file.resolve()
    if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name):
        return blob.name
    try:
        record = file.parent / f".cache/huggingface/download/{file.name}.metadata"
        etag = record.read_text().split()[1]
        if SHA256.fullmatch(etag):
            return etag
    except (OSError, ValueError, IndexError):
        pass
    try:
        sha256 = json.loads((file.parent / "manifest.json").read_text())[file.name]["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return sha256 if isinstance(sha256, str) else None
