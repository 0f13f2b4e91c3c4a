"""The time of a step against figures from elsewhere."""

import pytest

from renaissance.engine.scaling import BUCKET_BYTES, Cluster, step_time

GIGABYTE = 1e9


def cluster(nodes: int, gpus: int, link: float = 335, network: float = 12.5) -> Cluster:
    return Cluster(nodes, gpus, 1e14, link * GIGABYTE, network * GIGABYTE)


def simulated_ring(num_ranks: int, num_bytes: float, speed: float) -> float:
    """Return the seconds in which chunks go round a ring twice, one hop at a time."""
    chunk = num_bytes / num_ranks
    held = [[{rank} for _ in range(num_ranks)] for rank in range(num_ranks)]
    seconds, hop = 0.0, 0
    while any(len(parts) < num_ranks for chunks in held for parts in chunks):
        sent = [(rank, (rank - hop) % num_ranks) for rank in range(num_ranks)]
        moved = [(rank, index, set(held[rank][index])) for rank, index in sent]
        for rank, index, parts in moved:
            held[(rank + 1) % num_ranks][index] |= parts
        seconds += chunk / speed
        hop += 1
    return seconds


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_an_exchange_takes_what_a_ring_takes(num_ranks: int) -> None:
    expected = simulated_ring(num_ranks, 1e9, 335e9)
    assert cluster(1, num_ranks).exchange_seconds(1e9) == pytest.approx(expected)


def test_the_slowest_link_counts() -> None:
    one, two = cluster(1, 8), cluster(2, 8)
    assert one.exchange_seconds(1.34e9) == pytest.approx(0.007, rel=0.01)
    assert two.exchange_seconds(1.34e9) == pytest.approx(0.201, rel=0.01)
    assert cluster(2, 8, network=1000).exchange_seconds(1.34e9) == pytest.approx(0.0075, rel=0.01)
    assert cluster(1, 1).exchange_seconds(1.34e9) == 0


def test_backward_hides_all_but_the_last_bucket() -> None:
    # 0.3 s of compute, of which backward is 0.2 s.
    hidden = step_time(cluster(1, 8), 3e13, 1, 1.34e9)
    assert hidden.exposed == cluster(1, 8).exchange_seconds(BUCKET_BYTES)
    assert hidden.total == pytest.approx(0.3, rel=1e-3)
    shown = step_time(cluster(4, 8, network=1.25), 3e13, 1, 1.34e9)
    assert shown.exposed == pytest.approx(2 * 31 / 32 * 1.34 / 1.25 - 0.2)
    assert shown.efficiency == pytest.approx(0.3 / (0.3 + shown.exposed))
    # With accumulation, one backward of four hides it.
    parted = step_time(cluster(4, 8, network=1.25), 3e13, 4, 1.34e9)
    assert parted.exposed == pytest.approx(2 * 31 / 32 * 1.34 / 1.25 - 0.05)


def test_one_gpu_exchanges_nothing() -> None:
    alone = step_time(cluster(1, 1), 3e13, 1, 1.34e9)
    assert (alone.exchange, alone.exposed, alone.efficiency) == (0, 0, 1)
