import numpy as np
import pytest

from renaissance.data.order import Permutation, sample_at


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 100, 1000, 1023, 1024, 4099])
def test_every_element_appears_exactly_once(length: int) -> None:
    for key in (0, 1, 123456789):
        permutation = Permutation(length, key)
        assert sorted(permutation[i] for i in range(length)) == list(range(length))


@pytest.mark.parametrize("length", [1, 3, 1000, 10**12 + 39])
def test_arrays_and_single_positions_agree(length: int) -> None:
    permutation = Permutation(length, key=5)
    positions = np.linspace(0, length - 1, num=min(length, 200)).astype(np.int64)
    assert permutation.take(positions).tolist() == [permutation[i] for i in positions.tolist()]
    assert permutation[np.int64(length - 1)] == permutation[length - 1]


def test_a_million_elements_are_permuted() -> None:
    elements = Permutation(1_000_003, key=9).take(np.arange(1_000_003))
    assert np.array_equal(np.sort(elements), np.arange(1_000_003))


def test_take_keeps_shape_and_accepts_nothing() -> None:
    permutation = Permutation(10, key=0)
    assert permutation.take(np.arange(6).reshape(2, 3)).shape == (2, 3)
    assert permutation.take(np.array([], dtype=np.int64)).size == 0


def test_orders_are_the_same_on_every_platform_and_version() -> None:
    # Stored values: changing them changes every run's order of samples.
    assert [Permutation(10, key=0)[i] for i in range(10)] == [5, 3, 9, 1, 7, 4, 8, 0, 6, 2]
    assert [sample_at(p, 1000, seed=7) for p in (0, 999, 1000, 123_456)] == [
        (0, 154),
        (0, 138),
        (1, 394),
        (123, 394),
    ]


def test_keys_give_different_orders() -> None:
    orders = [Permutation(1000, key).take(np.arange(1000)) for key in range(20)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            # Two random orders agree in one place on average.
            assert (first == second).sum() < 10


@pytest.mark.parametrize("length", [3, 5, 12])
def test_every_element_lands_everywhere_equally_often(length: int) -> None:
    num_keys = 3000
    counts = np.zeros((length, length))
    for key in range(num_keys):
        counts[np.arange(length), Permutation(length, key).take(np.arange(length))] += 1
    expected = num_keys / length
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (length - 1) ** 2
    # Four standard deviations of the chi-square distribution.
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_neighbours_are_scattered() -> None:
    elements = Permutation(10_000, key=3).take(np.arange(10_000))
    correlation = np.corrcoef(elements[:-1], elements[1:])[0, 1]
    assert abs(correlation) < 0.04
    # Steps between neighbours of a random order: mean length / 3.
    assert abs(np.abs(np.diff(elements)).mean() - 10_000 / 3) < 100


def test_the_stream_passes_over_each_epoch_once_and_epochs_differ() -> None:
    stream = [sample_at(position, 50, seed=1) for position in range(150)]
    assert [epoch for epoch, _ in stream] == [0] * 50 + [1] * 50 + [2] * 50
    epochs = [[i for _, i in stream[start : start + 50]] for start in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [sample_at(position, 50, seed=2)[1] for position in range(50)] != epochs[0]


def test_positions_outside_are_refused() -> None:
    permutation = Permutation(10, key=0)
    for position in (-1, 10):
        with pytest.raises(IndexError, match=f"got {position}, expected 0 <= position < 10"):
            permutation[position]
    with pytest.raises(IndexError, match="got 0 to 10, expected 0 <= position < 10"):
        permutation.take(np.array([0, 10]))
    with pytest.raises(ValueError, match="got 0, expected 1 <= length"):
        Permutation(0, key=0)
