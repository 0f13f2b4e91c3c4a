"""How many processes load data."""

import pytest

from renaissance.data import workers
from renaissance.data.workers import count_workers


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 7), (33, 32), (200, 32)])
def test_workers_leave_a_core_to_the_main_process(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr(workers, "cores_of_rank", lambda: cores)
    assert count_workers("auto") == expected
    assert count_workers(0) == 0
    assert count_workers(99) == 99
