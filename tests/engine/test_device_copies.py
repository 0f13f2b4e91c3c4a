"""Copies of micro-batches on a stream of their own, without a GPU: the order of what is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from renaissance import ObjectiveBatch, Pairs
from renaissance.data.micro_batch import MicroBatch, map_tensors
from renaissance.engine.device_copies import SideStreamCopies, copier

META = torch.device("meta")


def batch() -> MicroBatch:
    rows = torch.arange(3)
    objectives = {"itm": ObjectiveBatch(3, Pairs(rows, rows), {"labels": rows})}
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    return MicroBatch(rows, rows[:, None], None, pixels, objectives)


def tensors_of(copied: MicroBatch) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, copied)
    return found


class Stream:
    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def wait_stream(self, other: "Stream") -> None:
        self.calls.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace torch's streams by ones that note what they are asked, and return the notes."""
    calls: list[Any] = []
    side, main = Stream("side", calls), Stream("main", calls)
    current = [main]

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    to = MicroBatch.to

    def noted_to(self: MicroBatch, device: torch.device) -> MicroBatch:
        calls.append(f"{current[-1].name} copies")
        return to(self, device)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(MicroBatch, "to", noted_to)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda self, chosen: calls.append((chosen.name, id(self)))
    )
    return calls


def test_work_waits_for_the_copy_and_memory_for_the_work(calls: list[Any]) -> None:
    copies = SideStreamCopies(META)
    copied = copies(batch())
    found = tensors_of(copied)
    assert {tensor.device for tensor in found} == {META}
    assert calls[:2] == ["side copies", "main waits for side"]
    assert calls[2:] == [("main", id(tensor)) for tensor in found]
    assert len(found) == 6


def test_other_devices_have_no_streams(calls: list[Any]) -> None:
    device = torch.device("cpu")
    copied = copier(device)(batch())
    assert calls == ["main copies"]
    expected = tensors_of(batch())
    assert all(torch.equal(*pair) for pair in zip(tensors_of(copied), expected, strict=True))
    assert isinstance(copier(torch.device("cuda")), SideStreamCopies)
