"""From a run folder to a model that answers."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import torch

from renaissance.data.tokenizer import tokenizer_sha256
from renaissance.engine.checkpoint import load_checkpoint
from renaissance.engine.run_folder import RunFolder, find_checkpoint
from renaissance.engine.run_parts import build_network, build_tokenizer, resolve_spec
from renaissance.engine.training_data import TrainingAnswers, read_records
from renaissance.errors import PluginError, RunError, SpecError
from renaissance.hub import local_folder
from renaissance.inference.model import Model
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# Of an exported folder: the distributions that it needs, as pip takes them.
REQUIREMENTS = "requirements.txt"


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    checkpoint: str | Path = "best",
    trust_plugins: bool = False,
) -> Model:
    """Load a trained model from its folder, without its data and without the hub.

    Args:
        path: A run folder (runs/NAME), a folder that `renaissance export` wrote, or the name of
            such a folder on the Hugging Face hub (ORGANIZATION/NAME), which is downloaded once.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", or a torch device.
        checkpoint: "best" (the last one if none is marked), "last", or a checkpoint's folder.
        trust_plugins: Whether to run the Python files that the run folder names in `run.plugins`;
            installed plugins always serve.

    Returns:
        The model, in evaluation mode.

    Raises:
        SpecError: If there is no run folder at the path.
        CheckpointError: If it has no checkpoint, or a damaged one, or cannot be downloaded.
        RunError: If there is no such device.
        PluginError: If a plugin that an exported folder needs is not installed.
        RenaissanceError: If a plugin that the run used is not installed.
    """
    folder = RunFolder(local_folder(path).resolve())
    if not folder.spec.is_file():
        raise SpecError(f"{path}: no spec.toml there; expected a run folder (runs/NAME)")
    _check_installed(folder.path / REQUIREMENTS)
    read = load_spec(folder.spec_arguments(), load_plugins(), trust_plugins)
    # It is resolved already. Of so much data, an epoch is longer than the steps that it names.
    spec = resolve_spec(read, num_samples=sys.maxsize, world_size=1)
    chosen = (
        folder.find(prefer_best=checkpoint == "best")
        if checkpoint in ("best", "last")
        else find_checkpoint(Path(checkpoint), prefer_best=True)
    )
    tokenizer = build_tokenizer(spec, lambda: _no_data(folder.path))
    folder.check_tokenizer(tokenizer_sha256(tokenizer))
    answers = TrainingAnswers(lambda: _no_data(folder.path), read_records(folder.classes))
    network = build_network(spec, tokenizer, load_weights=False, answers=answers)
    load_checkpoint(chosen, network, optimizer=None)
    network.finish()
    network.requires_grad_(False)
    return Model(spec, network.to(_device(device)).eval(), tokenizer, chosen)


def _check_installed(requirements: Path) -> None:
    """Check that the plugins that an exported folder needs are installed, in whatever version.

    Raises:
        PluginError: Naming those that are not.
    """
    lines = requirements.read_text().split() if requirements.is_file() else []
    missing = [line for line in lines if not _is_installed(line.partition("==")[0])]
    if missing:
        raise PluginError(
            f"{requirements.parent}: needs plugins that are not installed: {', '.join(missing)}; "
            f"install them: pip install {' '.join(missing)}"
        )


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def _no_data(folder: Path) -> NoReturn:
    raise SpecError(
        f"{folder}: no tokenizer there, and data.tokenizer is 'dataset', which needs the data; "
        "expected the folder tokenizer/ that the run has written. Copy the whole run folder"
    )


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    # AssertionError: torch was built without CUDA.
    except (RuntimeError, AssertionError) as error:
        raise RunError(
            f"device: {str(device)!r} is not there ({str(error).splitlines()[0]}); use 'auto' or "
            "'cpu'"
        ) from error
    return chosen
