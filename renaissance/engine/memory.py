"""The memory that this process has used."""

import sys

import torch


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
