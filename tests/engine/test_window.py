"""The figures of a window, saved and continued bit by bit, on the ranks that made them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics import CatMetric, MeanMetric

from renaissance.engine.distributed import Ranks
from renaissance.engine.metrics import MetricBook
from renaissance.engine.window import gather_window, restore_window


class Task:
    """An objective with a metric whose state is a tensor, and one whose state is a list."""

    def metrics(self) -> dict[str, Any]:
        return {"mean": MeanMetric(), "all": CatMetric()}

    def update_metrics(self, metrics: Any, batch: Any, output: Any) -> None:
        for metric in metrics.values():
            metric.update(output.loss_sum)


BATCH: Any = SimpleNamespace(objectives={"task": SimpleNamespace(num_targets=3)})


def outputs(loss: float) -> Any:
    return {"task": SimpleNamespace(loss_sum=torch.tensor(loss, dtype=torch.float64))}


def book() -> Any:
    tasks: Any = {"task": Task()}
    return MetricBook(tasks, {"task": 1.0}, torch.device("cpu"))


LOSSES = [[0.1, 0.7, 1 / 3], [1e9, 1e-9, 2 / 3]]


def figures(made: Any) -> list[float]:
    values = made._all()
    return [*values["metric/task/all"].compute().tolist(), float(values["loss/task"].compute())]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_each_rank_continues_its_own_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    whole, begun, continued = ([book(), book()] for _ in range(3))
    for rank, losses in enumerate(LOSSES):
        for index, loss in enumerate(losses):
            whole[rank].update(BATCH, outputs(loss))
            if index < cut:
                begun[rank].update(BATCH, outputs(loss))
    texts: list[str] = []

    def gather_text(self: Ranks, text: str) -> list[str]:
        texts.append(text)
        return texts

    monkeypatch.setattr(Ranks, "gather_text", gather_text)
    monkeypatch.setattr(Ranks, "from_main", lambda self, make: make())
    ranks = Ranks("cpu")
    gather_window(begun[0], ranks)
    save_file(gather_window(begun[1], ranks), tmp_path / "window.safetensors")
    # One rank instead of two begins anew.
    restore_window(tmp_path, continued[0], ranks)
    assert not continued[0]._all()["metric/task/all"].state_dict()["value"]
    ranks.world_size = 2
    for rank, losses in enumerate(LOSSES):
        ranks.rank = rank
        restore_window(tmp_path, continued[rank], ranks)
        for loss in losses[cut:]:
            continued[rank].update(BATCH, outputs(loss))
        assert figures(continued[rank]) == figures(whole[rank])


def test_a_checkpoint_between_windows_has_none(tmp_path: Path) -> None:
    one = book()
    restore_window(tmp_path, one, Ranks("cpu"))
    assert not one._all()["metric/task/all"].state_dict()["value"]
