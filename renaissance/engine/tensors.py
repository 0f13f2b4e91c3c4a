"""Tensors by name, as a checkpoint stores them: tied ones once."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from renaissance.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

MAX_NAMED = 5
# Bytes that are hashed and written at once.
CHUNK = 16 * 2**20
# https://huggingface.co/docs/safetensors/index#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors


def is_in_rows(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is sharded, so that each rank has some rows of it."""
    # To import the class takes a second; where nobody has, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor: its rows, if it is sharded."""
    return tensor.to_local() if is_in_rows(tensor) else tensor


def aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Find tied tensors: several names of the same memory.

    Returns:
        The first name of each tied tensor, by every further name.
    """
    first_names: dict[tuple[int, int, int], str] = {}
    first_name_of = {}
    for name, tensor in tensors.items():
        # Not the address of the data, which is the same for all tensors on the meta device.
        local = local_of(tensor)
        storage = local.untyped_storage()._cdata
        key = (storage, int(local.storage_offset()), tensor.numel())
        if tensor.numel() and key in first_names:
            first_name_of[name] = first_names[key]
        else:
            first_names[key] = name
    return first_name_of


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, tied ones by their first name only: safetensors rejects the rest."""
    tied = aliases(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in tied}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file; other threads of this process run meanwhile.

    Args:
        path: The file.
        tensors: Contiguous tensors on the CPU, by name.
        metadata: What the file says about itself.

    Returns:
        The SHA-256 digest of what was to be written, in hexadecimal.

    Raises:
        OSError: If it cannot be written.
        SafetensorError: If a tensor has a type that safetensors lacks.
    """
    # In the order of `save_file`, which keeps tensors of each size aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise SafetensorError(f"{name}: safetensors has no {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            digest.update(part)
            file.write(part)
        # `save_file` would hold Python's lock, and with it the training, until it is done.
        for name in names:
            data: memoryview[int] = tensors[name].reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(data), CHUNK):
                digest.update(data[begin : begin + CHUNK])
                file.write(data[begin : begin + CHUNK])
    return digest.hexdigest()


def to_host(tensor: Tensor) -> Tensor:
    """Return a contiguous copy in the host's memory.

    One of a CUDA device is filled when the work that is queued on its current stream is done.
    """
    tensor = tensor.detach()
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    # Into pinned memory, so that the host need not wait.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def first_few(entries: Sequence[str]) -> str:
    """Join the first entries of a list for a message, and say how many more there are."""
    num_more = len(entries) - MAX_NAMED
    more = [f"and {num_more} more"] if num_more > 0 else []
    return "; ".join([*entries[:MAX_NAMED], *more])
