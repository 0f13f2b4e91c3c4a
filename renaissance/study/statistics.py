"""The difference between two variants, with an interval that can be believed.

Both variants saw the same samples with the same seeds, so their scores are paired, which removes
what seeds and samples have in common. Two things make a difference uncertain: other seeds would
train other models, and another split would have other samples. The bootstrap here draws both
(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007), with two corrections:

- Studies have few seeds. Resampling S of them varies by a factor of (S - 1) / S too little, and the
  variance that is estimated from them is uncertain too. Deviations are therefore scaled by
  sqrt(S / (S - 1)), and by a draw of sqrt((S - 1) / chi-squared with S - 1 degrees of freedom),
  which makes Student's t of a normal distribution.
- What is special to one seed with one sample would count twice, once with the seeds and once with
  the samples. It is taken out of the samples' part, by its mean square in the two-way table.
"""

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from renaissance.randomness import keyed_seed

Array = NDArray[np.float64]

NUM_REPLICATES = 10_000
LEVEL = 0.95
# Below this, an interval of a bootstrap is known to be too narrow.
FEW_SAMPLES = 30
# Numbers that a block of replicates draws at once: 80 MB.
MAX_DRAWN = 10_000_000


@attrs.frozen
class Difference:
    """The difference of a metric from that of the baseline.

    Attributes:
        mean: The mean difference.
        low: Lower end of the 95% interval; NaN if there is none.
        high: Upper end.
        p_value: Two-sided, that there is no difference; NaN if it cannot be known.
        num_seeds: Seeds that both have.
        num_samples: Samples of each seed; 1 if only the metric is known.
        notes: Why the interval means less than it seems to, or nothing.
    """

    mean: float
    low: float
    high: float
    p_value: float
    num_seeds: int
    num_samples: int
    notes: tuple[str, ...]


def paired_difference(
    differences: Array, key: str, num_replicates: int = NUM_REPLICATES
) -> Difference:
    """Return the mean of paired differences, with its 95% interval.

    Args:
        differences: Score minus that of the baseline, (seeds, samples), float64. Of only one
            sample, if metrics and not scores are compared.
        key: What is compared, such as its name: it seeds the draws.
        num_replicates: Number of bootstrap replicates.
    """
    num_seeds, num_samples = differences.shape
    mean = float(differences.mean())
    if num_seeds == num_samples == 1:
        note = "one seed and no scores of samples: there is no interval"
        return Difference(mean, np.nan, np.nan, np.nan, 1, 1, (note,))
    drawn = replicates(differences, np.random.default_rng(keyed_seed(0, key)), num_replicates)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # At least one replicate counts: a bootstrap of n replicates knows no smaller p.
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2 * float(tail + 1) / (num_replicates + 1))
    notes = _notes(num_seeds, num_samples)
    return Difference(mean, float(low), float(high), p_value, num_seeds, num_samples, notes)


def replicates(differences: Array, generator: np.random.Generator, count: int) -> Array:
    """Return bootstrap replicates of the mean difference, (count,), float64.

    Args:
        differences: (seeds, samples).
        generator: For all draws.
        count: Number of replicates.
    """
    num_seeds, num_samples = differences.shape
    mean = differences.mean()
    by_seed, by_sample = differences.mean(1) - mean, differences.mean(0) - mean
    drawn = np.full(count, mean)
    if num_samples > 1:
        drawn += _shrinkage(differences) * _resampled_means(by_sample, generator, count)
    if num_seeds > 1:
        # The product of the two factors above.
        scale = np.sqrt(num_seeds / generator.chisquare(num_seeds - 1, count))
        drawn += scale * _resampled_means(by_seed, generator, count)
    return drawn


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons; NaN is not a comparison.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 1979.
    """
    corrected = [float("nan")] * len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if not np.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[index] = largest
    return corrected


def _shrinkage(differences: Array) -> float:
    """Return the share of the samples' deviations that is common to all seeds, from 0 to 1."""
    num_seeds, num_samples = differences.shape
    if num_seeds == 1:
        return 1.0
    by_seed, by_sample = differences.mean(1, keepdims=True), differences.mean(0, keepdims=True)
    residuals = differences - by_seed - by_sample + differences.mean()
    special = (residuals**2).sum() / ((num_seeds - 1) * (num_samples - 1)) / num_seeds
    total = by_sample.var(ddof=1)
    return float(np.sqrt(max(0.0, 1 - special / total))) if total > 0 else 0.0


def _resampled_means(values: Array, generator: np.random.Generator, count: int) -> Array:
    """Return the means of as many values drawn with replacement, (count,)."""
    # Scores have few distinct values: how often each is drawn is all that matters.
    distinct, counts = np.unique(np.round(values, 12), return_counts=True)
    shares = counts / counts.sum()
    block = max(1, MAX_DRAWN // len(distinct))
    sums = [
        generator.multinomial(len(values), shares, size=min(block, count - start)) @ distinct
        for start in range(0, count, block)
    ]
    return np.concatenate(sums) / len(values)


def _notes(num_seeds: int, num_samples: int) -> tuple[str, ...]:
    notes = []
    if num_seeds == 1:
        notes.append("one seed: the interval does not know what another seed would change")
    if num_samples == 1:
        notes.append("no scores of samples: the interval is of seeds alone")
    elif num_samples < FEW_SAMPLES:
        notes.append(f"only {num_samples} samples: the interval is too narrow")
    return tuple(notes)
