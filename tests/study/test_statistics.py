"""The paired bootstrap against SciPy, its coverage on simulated pairs, and Holm's correction."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from renaissance.study.statistics import holm, paired_difference, replicates

Array = NDArray[np.float64]


def simulated(
    generator: np.random.Generator, shape: tuple[int, int], seed: float, sample: float, rest: float
) -> Array:
    """Return differences around 0 with a part for the seed, one for the sample, and the rest."""
    seeds, samples = shape
    by_seed = seed * generator.normal(size=(seeds, 1))
    by_sample = sample * generator.normal(size=(1, samples))
    difference: Array = by_seed + by_sample + rest * generator.normal(size=shape)
    return difference


@pytest.mark.parametrize(
    ("shape", "deviations"),
    [
        ((3, 100), (0.1, 1.0, 1.0)),
        ((3, 60), (0.5, 0.5, 1.0)),
        ((5, 80), (0.1, 0.0, 1.0)),
        ((1, 150), (0.0, 1.0, 0.0)),
        ((8, 1), (1.0, 0.0, 0.0)),
    ],
)
def test_a_95_percent_interval_covers_95_percent(
    shape: tuple[int, int], deviations: tuple[float, float, float]
) -> None:
    num_covered = 0
    for index in range(1000):
        generator = np.random.default_rng(index)
        drawn = replicates(simulated(generator, shape, *deviations), generator, 400)
        low, high = np.quantile(drawn, [0.025, 0.975])
        num_covered += bool(low <= 0 <= high)
    assert 930 <= num_covered <= 970


def test_the_interval_of_one_seed_is_scipys_bootstrap() -> None:
    scores = np.random.default_rng(1).exponential(size=400) - 0.9
    ours = paired_difference(scores[None], "scores")
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=10_000, method="percentile", random_state=2
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(scores.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    expected = stats.ttest_1samp(scores, 0).pvalue
    assert ours.p_value == pytest.approx(expected, abs=0.01)


def test_without_scores_the_interval_is_about_students_t() -> None:
    values = np.random.default_rng(3).normal(1, 1, size=12)
    ours = paired_difference(values[:, None], "seeds")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ours.low == pytest.approx(low, abs=0.1 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.1 * (high - low))
    assert ours.notes == ("no scores of samples: the interval is of seeds alone",)


def test_pairing_makes_the_interval_of_correlated_scores_narrower() -> None:
    generator = np.random.default_rng(4)
    # Some samples are easy for both.
    difficulty = generator.uniform(size=500)
    ours, baseline = ((difficulty > generator.normal(0.5, 0.1, 500)).astype(float) for _ in "ab")
    paired = paired_difference((ours - baseline)[None], "pairs")
    unpaired = stats.bootstrap(
        (ours, baseline),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        n_resamples=5000,
        method="percentile",
        random_state=5,
    ).confidence_interval
    assert (unpaired.high - unpaired.low) / (paired.high - paired.low) >= 1.5


def test_equal_variants_do_not_differ() -> None:
    difference = paired_difference(np.zeros((3, 50)), "equal")
    assert (difference.low, difference.high, difference.p_value) == (0, 0, 1)


def test_draws_depend_on_the_key_alone() -> None:
    scores = np.random.default_rng(6).normal(size=(2, 40))
    assert paired_difference(scores, "a") == paired_difference(scores, "a")
    assert paired_difference(scores, "a") != paired_difference(scores, "b")


def test_it_says_when_an_interval_means_nothing() -> None:
    nothing = paired_difference(np.array([[0.5]]), "one")
    assert math.isnan(nothing.low)
    assert nothing.notes == ("one seed and no scores of samples: there is no interval",)
    few = paired_difference(np.random.default_rng(7).normal(size=(1, 10)), "few")
    assert few.notes == (
        "one seed: the interval does not know what another seed would change",
        "only 10 samples: the interval is too narrow",
    )


def test_holm_by_hand() -> None:
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.8 x 1; none is below the one before it.
    assert holm([0.03, 0.01, 0.8, 0.02]) == pytest.approx([0.06, 0.04, 0.8, 0.06])
    # 0.04 x 2 = 0.08, then 0.05 x 1 = 0.05, raised to 0.08.
    assert holm([0.05, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.6]) == [1, 1]
    corrected = holm([math.nan, 0.02])
    assert math.isnan(corrected[0])
    assert corrected[1] == 0.02
