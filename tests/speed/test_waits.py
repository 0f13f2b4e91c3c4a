"""How often a training step makes the host wait for the device, or for other ranks."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.running import run_here, write_spec
from torch.utils._python_dispatch import TorchDispatchMode

from renaissance import ObjectiveBatch, ObjectiveOutput, accuracy
from renaissance.data.micro_batch import MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.loop import Loop
from renaissance.engine.metrics import MetricBook

META = torch.device("meta")


class CountReads(TorchDispatchMode):
    """Counts what reads a value on the host: `float(tensor)`, `bool(tensor)`, `tensor.item()`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.num_reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("optimizer", "most_in_step"), [("adamw", 0), ("muon", 1)])
def test_a_step_waits_once_and_exchanges_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, most_in_step: int
) -> None:
    steps: list[Counter[str]] = []
    next_, step = Loop._next, Loop._step

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Loop, *arguments: Any) -> Any:
            with CountReads() as count:
                result = function(self, *arguments)
            steps[-1][name] += count.num_reads
            return result

        return call

    def begin(self: Loop, *arguments: Any) -> Any:
        steps.append(Counter())
        return counted("reads before", next_)(self, *arguments)

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if steps:
                steps[-1][name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(Loop, "_next", begin)
    monkeypatch.setattr(Loop, "_step", counted("reads in step", step))
    for name in ("sum", "_gather", "gather_text"):
        monkeypatch.setattr(Ranks, name, counting(f"exchanges by {name}", getattr(Ranks, name)))
    settings = ["train.micro_batch_size=4", "train.gradient_clip=1.0", "train.log_every=100"]
    settings += ["data.validate=[]", "train.max_steps=6", "checkpoint.every_steps=100"]
    settings.append(f"optimizer.type={optimizer}")
    assert run_here(write_spec(tmp_path), tmp_path, *settings) == 0
    assert len(steps) == 6
    # The last step saves.
    for counts in steps[1:-1]:
        assert counts["exchanges by sum"] == 1
        assert counts["exchanges by gather_text"] == counts["exchanges by _gather"] == 0
        assert counts["reads in step"] <= most_in_step
        assert counts["reads before"] + counts["reads in step"] <= 1


class Counting:
    """Stands in for an objective."""

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": accuracy()}

    def update_metrics(self, metrics: Any, batch: ObjectiveBatch, output: ObjectiveOutput) -> None:
        metrics["accuracy"].update(output.predictions["right"].float())


def test_figures_send_no_number_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python number that becomes a tensor on a device is copied there, which is waited for."""
    objective: Any = Counting()
    book = MetricBook({"mlm": objective}, {"mlm": 1.0}, META)
    numbers: list[Any] = []
    as_tensor = torch.as_tensor

    def noted(data: Any, *, dtype: Any = None, device: Any = None) -> Any:
        if not isinstance(data, torch.Tensor) and torch.device(device or "cpu") == META:
            numbers.append(data)
        return as_tensor(data, dtype=dtype, device=device)

    # With which torchmetrics turns numbers into tensors.
    monkeypatch.setattr(torch, "as_tensor", noted)
    batch = MicroBatch(torch.tensor([0]), None, None, None, {"mlm": ObjectiveBatch(7)})
    outputs = {
        "mlm": ObjectiveOutput(
            torch.zeros((), device=META), {"right": torch.zeros(7, dtype=torch.bool, device=META)}
        )
    }
    book.update(batch, outputs)
    book.update(batch, outputs)
    assert numbers == []
    assert book.num_targets() == {"mlm": 14}
