"""The demo fits the machine."""

import pytest
import torch

from renaissance.demo.__main__ import choose_num_ranks


@pytest.mark.parametrize(("num_gpus", "num_ranks"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_no_rank_is_started_without_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, num_ranks: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert choose_num_ranks() == num_ranks
