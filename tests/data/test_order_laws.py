"""Laws of the order of samples: a permutation is a bijection, shares partition the stream."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from renaissance.data.order import Permutation, SampleStream, TrainingOrder, evaluation_order
from renaissance.spec.batch_plan import BatchPlan

LENGTHS = st.integers(1, 400)
KEYS = st.integers(0, 2**63 - 1)


@given(length=LENGTHS, key=KEYS)
def test_a_permutation_is_a_bijection(length: int, key: int) -> None:
    permutation = Permutation(length, key)
    elements = [permutation[position] for position in range(length)]
    assert sorted(elements) == list(range(length))
    assert permutation.take(np.arange(length)).tolist() == elements


@given(length=st.integers(1, 2**62 - 1), key=KEYS, data=st.data())
def test_any_position_of_any_length_lands_inside(
    length: int, key: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, length - 1))
    permutation = Permutation(length, key)
    assert 0 <= permutation[position] < length
    assert permutation.take(np.array([position]))[0] == permutation[position]


@given(lengths=st.lists(LENGTHS, min_size=1, max_size=4), seed=KEYS, epoch=st.integers(0, 3))
def test_every_epoch_of_the_stream_holds_every_sample_once(
    lengths: list[int], seed: int, epoch: int
) -> None:
    stream, total = SampleStream(lengths, None, seed), sum(lengths)
    found = [stream.at(position) for position in range(epoch * total, (epoch + 1) * total)]
    assert sorted(found) == [(epoch, index) for index in range(total)]


WEIGHTED = st.lists(st.tuples(LENGTHS, st.integers(1, 9)), min_size=1, max_size=4)


@given(datasets=WEIGHTED, seed=KEYS, start=st.integers(0, 5000), count=st.integers(1, 300))
def test_datasets_with_weights_take_turns(
    datasets: list[tuple[int, int]], seed: int, start: int, count: int
) -> None:
    lengths, weights = zip(*datasets, strict=True)
    stream = SampleStream(lengths, weights, seed)
    ends = np.cumsum(lengths)

    def turns_in(positions: range) -> Counter[int]:
        indices = [stream.at(position)[1] for position in positions]
        return Counter(np.searchsorted(ends, indices, side="right").tolist())

    turns = turns_in(range(start, start + count))
    for dataset, share in enumerate(stream.min_share(count)):
        assert turns[dataset] >= share
    # From the start, no dataset is ever ahead or behind by more than rounding, one per level.
    so_far = turns_in(range(count))
    for dataset, weight in enumerate(weights):
        assert abs(so_far[dataset] - count * weight / sum(weights)) < len(lengths)


@given(datasets=WEIGHTED, seed=KEYS)
def test_each_dataset_of_a_weighted_stream_goes_through_epochs_of_its_own(
    datasets: list[tuple[int, int]], seed: int
) -> None:
    lengths, weights = zip(*datasets, strict=True)
    stream = SampleStream(lengths, weights, seed)
    found = [stream.at(position) for position in range(2 * sum(lengths))]
    assert len(set(found)) == len(found)  # no sample twice in an epoch


@given(
    world_size=st.integers(1, 4),
    micro_batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    num_steps=st.integers(1, 4),
    seed=KEYS,
)
def test_ranks_and_micro_batches_partition_every_step(
    world_size: int, micro_batch_size: int, accumulation: int, num_steps: int, seed: int
) -> None:
    total = world_size * micro_batch_size * accumulation
    plan = BatchPlan(total, micro_batch_size, accumulation, world_size)
    stream = SampleStream([50], None, seed)
    orders = [
        list(TrainingOrder(plan, rank, stream, start=0, stop=num_steps * total))
        for rank in range(world_size)
    ]
    for step in range(num_steps):
        part = slice(step * accumulation, (step + 1) * accumulation)
        found = [key for order in orders for keys in order[part] for key in keys]
        assert found == [stream.at(p) for p in range(step * total, (step + 1) * total)]


@given(
    num_samples=st.integers(1, 200),
    micro_batch_size=st.integers(1, 32),
    world_size=st.integers(1, 5),
)
@settings(max_examples=50)
def test_an_evaluation_sees_every_sample_once_over_all_ranks(
    num_samples: int, micro_batch_size: int, world_size: int
) -> None:
    found = [
        key
        for rank in range(world_size)
        for keys in evaluation_order(num_samples, micro_batch_size, rank, world_size)
        for key in keys
    ]
    assert sorted(found) == [(0, index) for index in range(num_samples)]
