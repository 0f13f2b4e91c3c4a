"""The Hugging Face hub: whether it can be reached, downloads and uploads."""

import os
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, constants, get_session, snapshot_download

from renaissance.errors import CheckpointError, RunError
from renaissance.files import is_hub_name, with_home

PROBE_SECONDS = 3.0
# What is loaded of an exported folder; the rest is for other programs.
EXPORTED_FILES = (
    "*.json",
    "*.toml",
    "model.safetensors",
    "tokenizer.sha256",
    "requirements.txt",
    "tokenizer/*",
    "encoders/*",
    "plugins/*",
)


def use_cache_if_unreachable(checkpoints: Iterable[str]) -> None:
    """Go offline if a checkpoint may have to be downloaded and the hub does not answer.

    The library itself tries every file again and again, which takes more than a minute. Offline,
    it uses what is in its cache, and otherwise says at once what is missing.

    Args:
        checkpoints: Hub ids and local folders.
    """
    if constants.HF_HUB_OFFLINE or all(map(os.path.isdir, checkpoints)):
        return
    try:
        # Any answer will do, also from a proxy.
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    # Releases of the library have different clients, with errors of their own.
    except Exception:
        constants.HF_HUB_OFFLINE = True


def download(name: str, patterns: Iterable[str]) -> Path:
    """Download files of a model, unless they are in the library's cache, and return their folder.

    Args:
        name: Its name on the hub, ORGANIZATION/NAME.
        patterns: Which files.

    Raises:
        CheckpointError: If there is no such model, or it is neither reachable nor in the cache.
    """
    use_cache_if_unreachable([name])
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    # Releases of the library have different clients, with errors of their own.
    except Exception as error:
        is_offline = constants.HF_HUB_OFFLINE
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        cause = "it cannot be reached, and the model is not in the cache" if is_offline else cause
        raise CheckpointError(
            f"{name}: there is no such folder, and it could not be fetched from the hub: {cause}; "
            "expected a run folder (runs/NAME), an exported folder, or ORGANIZATION/NAME on the hub"
        ) from error


def local_folder(path: str | Path) -> Path:
    """Return the folder of a run, or of an exported model, which may be a name on the hub.

    Args:
        path: The folder, or ORGANIZATION/NAME on the hub, which is then downloaded once.

    Raises:
        CheckpointError: If it could be such a name, and there is neither a folder nor a model.
    """
    if is_hub_name(path):
        return download(str(path), EXPORTED_FILES)
    return Path(with_home(str(path)))


def upload(folder: Path, name: str) -> str:
    """Upload a folder to the hub as a model, which is made if need be, and return its address.

    Args:
        folder: The folder.
        name: Its name on the hub, ORGANIZATION/NAME.

    Raises:
        RunError: If the hub cannot be reached, or refuses.
    """
    try:
        api = HfApi()
        api.create_repo(name, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model")
    except Exception as error:
        cause = str(error).strip().partition("\n")[0]
        raise RunError(
            f"--push {name}: {cause}; {folder} is whole. Log in with 'hf auth login', check the "
            f"name, and upload it with 'hf upload {name} {folder}'"
        ) from error
    return f"{constants.ENDPOINT}/{name}"
