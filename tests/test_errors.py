"""How errors are described to users."""

from pathlib import Path

import numpy as np
import pytest
import torch

from renaissance.errors import DataError, describe, quoted


def test_a_full_disk_is_no_bug() -> None:
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_text("x")
    expected = "No space left on device; free space, or write to another folder"
    assert describe(caught.value) == expected
    assert describe(OSError(28, "No space left on device", "a/b")) == f"a/b: {expected}"
    assert "--debug" in describe(OSError(5, "Input/output error", "a/b"))


def test_memory_that_is_not_there_is_no_bug() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**55)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**55)
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. " + "x" * 900)
    remedy = "; lower train.micro_batch_size, data.image_size or data.num_workers"
    for error in (of_torch.value, of_numpy.value, gpu, MemoryError()):
        message = describe(error)
        assert message.startswith(f"out of memory ({type(error).__name__}: ")
        assert message.endswith(remedy)
        assert len(message) < 220


def test_no_message_prints_a_value_whole() -> None:
    picture = repr({"bytes": b"\xff" * 30_000})
    for error in (DataError(f"a: got {picture}"), ValueError(picture)):
        assert len(describe(error)) < 2200
    message = describe(DataError(f"a: got {picture} and {picture}, expected a path"))
    assert message.count("...") == 2
    assert message.endswith("..., expected a path") or message.endswith("... expected a path")
    assert len(message) < 250
    path = "/data/" + "x" * 200
    assert describe(DataError(f"{path}: missing")) == f"{path}: missing"


def test_quoted_takes_80_characters_of_any_value() -> None:
    for value in ("x" * 90_000, b"x" * 90_000, ["x"] * 30_000, 10**5000, {"x": {"y": "z" * 99}}):
        assert len(quoted(value)) <= 80
