"""The memory of this process."""

import ctypes
import sys

import torch

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep the memory that it frees, if it computes on a CPU, with glibc.

    By default, it hands large blocks back to the system when they are freed. Each step then asks
    for its activations anew, and the system clears them page by page: 5% of a step, or more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if device.type == "cpu" and mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> float:
    """Return this process's peak memory so far, in GiB: on the GPU, or resident memory on a CPU.

    On Apple's GPU, whose memory is the CPU's, and which counts no peak, it is resident memory too.
    Where the system does not tell, it is 0.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux reports KiB, macOS bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
