"""What a run needs of the machine that it starts on, for `renaissance check`."""

import os
from pathlib import Path

import torch

from renaissance.engine.distributed import choose_device
from renaissance.engine.estimate import Memory
from renaissance.errors import SpecError
from renaissance.spec.sections import RunSpec

# Of the largest GPU today. A run is often checked on another machine than it runs on.
LARGEST_GPU = 288 * 2**30


def check_machine(spec: RunSpec) -> None:
    """Check device and run folder.

    Raises:
        RenaissanceError: If a run could not start for one of them.
    """
    choose_device(spec.train.device, 0, 0)
    _check_folder(spec.folder)


def check_memory(spec: RunSpec, memory: Memory) -> None:
    """Check that a micro-batch can fit.

    Raises:
        SpecError: If it cannot, by far.
    """
    device = choose_device(spec.train.device, 0, 0)
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        available = LARGEST_GPU
    # The estimate is good to about a third.
    if memory.total > 1.5 * available:
        raise SpecError(
            f"train.micro_batch_size: a rank would take about {memory.total / 2**30:,.0f} GiB, far "
            f"more than the {available / 2**30:,.0f} GiB that it could have; lower it (and "
            "train.global_batch_size, or add accumulation steps)"
        )


def _check_folder(folder: Path) -> None:
    reason = ""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            reason = f"{existing} is a file"
        elif not os.access(existing, os.W_OK | os.X_OK):
            reason = f"{existing} is not writable"
    # A path that is too long, say.
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise SpecError(
            f"run.output_dir: cannot create {folder}: {reason}; choose a writable folder"
        )
