"""The precision of a run: `train.precision`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from renaissance.engine.cpu_attention import cpu_attention
from renaissance.spec.sections import Precision

# NVIDIA's first generation with bf16 units (Ampere). Earlier ones emulate it, slower than fp32.
FIRST_WITH_BF16 = (8, 0)


def auto_precision(device: torch.device) -> Precision:
    """Return what `train.precision = "auto"` stands for on a device."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= FIRST_WITH_BF16 else "fp32"


def set_tf32(is_allowed: bool, device: torch.device) -> None:
    """Set how this process computes products of fp32 on a CUDA device; CPUs are left alone."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if is_allowed else "highest")
        torch.backends.cudnn.allow_tf32 = is_allowed


@contextmanager
def autocast(precision: Precision, device: torch.device, training: bool = False) -> Iterator[None]:
    """Compute in the run's precision; fp32 changes no dtype.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: Where the run computes.
        training: Whether a backward pass will follow.
    """
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    kernels = training_kernels(device) if training else nullcontext()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None), kernels:
        yield


def training_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Return a context with the kernels that are the fastest in training.

    Backward must be inside too if activations are recomputed there.

    Args:
        device: Where the run computes.
    """
    return cpu_attention() if device.type == "cpu" else nullcontext()
