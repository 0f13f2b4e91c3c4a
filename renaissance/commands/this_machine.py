"""What a run needs of the machine that it starts on, for `renaissance check`."""

import os
from pathlib import Path

import torch

from renaissance.data.workers import count_workers
from renaissance.engine.distributed import choose_device
from renaissance.engine.estimate import Memory
from renaissance.errors import SpecError
from renaissance.spec.sections import RunSpec

# Beyond this, workers only take each other's turns.
WORKERS_PER_CORE = 64
# A pipe and what tells of its end.
FILES_PER_WORKER = 3
# Of the largest GPU today. A run is often checked on another machine than it runs on.
LARGEST_GPU = 288 * 2**30


def check_machine(spec: RunSpec) -> None:
    """Check device, run folder and worker processes.

    Raises:
        RenaissanceError: If a run could not start for one of them.
    """
    choose_device(spec.train.device, 0, 0)
    _check_folder(spec.folder)
    _check_workers(count_workers(spec.data.num_workers))


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
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    reason = ""
    if not existing.is_dir():
        reason = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} is not writable"
    if reason:
        raise SpecError(
            f"run.output_dir: cannot create {folder}: {reason}; choose a writable folder"
        )


def _check_workers(num_workers: int) -> None:
    most = WORKERS_PER_CORE * (os.cpu_count() or 1)
    what = f"{WORKERS_PER_CORE} for each CPU core"
    try:
        import resource  # Not on Windows.
    except ImportError:
        pass
    else:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and files // FILES_PER_WORKER < most:
            most, what = files // FILES_PER_WORKER, f"what a limit of {files} open files allows"
    if num_workers > most:
        raise SpecError(
            f"data.num_workers: got {num_workers:,}, more than {most:,}, {what} on this machine; "
            "use about as many as it has cores for each rank"
        )
