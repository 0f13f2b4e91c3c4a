"""The arithmetic of a run: `train.precision`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def autocast(precision: str, device: torch.device, training: bool = False) -> Iterator[None]:
    """Run in the run's arithmetic; this does nothing for fp32."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        if training and dtype is not None and device.type == "cpu":
            with _attention_of_matrix_products():
                yield
        else:
            yield


@contextmanager
def _attention_of_matrix_products() -> Iterator[None]:
    """Let attention be matrix products and a softmax.

    The backward of PyTorch's fused 16-bit attention on a CPU takes longer than that of fp32, while
    these products use the units that the CPU has for 16-bit numbers.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    # Or they would be made in fp32. Despite its place, the setting is that of CPUs as well.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)
