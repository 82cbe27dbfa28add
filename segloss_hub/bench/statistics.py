"""What a few trainings can tell about losses: intervals, tests and ranks, from arrays of scores.

Scores of one loss are an array (seeds, images) of one number per training and image of the
validation set, NaN where there is none. A metric that is no mean over images has one column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

LEVEL = 0.05  # of tests; intervals cover the truth in all but this share of cases
RESAMPLES = 2000
MIN_SEEDS = 2  # of one training nothing is known about how much the next one differs
MIN_LOSSES, MIN_BLOCKS = 3, 2  # for Friedman's test


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie; no bounds where the data cannot tell."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 if all of the interval lies on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def interval(values: Array) -> Interval:
    """The mean of paired differences (or scores) over seeds and images, and its interval.

    The standard error is that of a bootstrap that draws seeds and images, each independently: all
    seeds are scored on the same images, so an image that is drawn is drawn for all of them. One
    less than there are is drawn of both, which makes the variance of such small samples unbiased.
    The bounds are a Student quantile of it (degrees of freedom after Satterthwaite): the quantiles
    of the bootstrap itself never leave the range of the seeds, and with three of them cover the
    truth four times out of five, not nineteen out of twenty.
    """
    values = _filled(values)
    mean = _mean(values)
    if len(values) < MIN_SEEDS:
        return Interval(mean)
    error = float(np.std(_replicates(values)))
    if error == 0:
        return Interval(mean, mean, mean)
    reach = error * float(stats.t.ppf(1 - LEVEL / 2, _degrees_of_freedom(values)))
    return Interval(mean, mean - reach, mean + reach)


def paired(ours: Array, theirs: Array) -> Interval:
    """The interval of `ours - theirs`, of the same seeds and images in the same order.

    Raises `ValueError` if they cannot be paired.
    """
    if ours.shape != theirs.shape:
        raise ValueError(
            f"scores of (seeds, images) {ours.shape} cannot be paired with {theirs.shape}: both "
            "losses must be trained with the same seeds and scored on the same images"
        )
    return interval(ours - theirs)


def mean_of_each(values: Array) -> Array:
    """The mean over images of every training (seeds,), NaN for one without any score."""
    counts = (~np.isnan(values)).sum(1)
    means: Array = np.where(counts, np.nansum(values, 1) / np.maximum(counts, 1), np.nan)
    return means


def _filled(values: Array) -> Array:
    """Without the seeds and the images that have no score at all."""
    there = ~np.isnan(values)
    filled: Array = values[there.any(1)][:, there.any(0)]
    return filled


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if values.size else math.nan


def _replicates(values: Array) -> Array:
    """Means of resampled (seeds, images), (RESAMPLES,)."""
    seeds, images = (_draws(count, axis) for axis, count in enumerate(values.shape))
    there = ~np.isnan(values)
    sums = ((seeds @ np.where(there, values, 0)) * images).sum(1)
    counts = ((seeds @ there) * images).sum(1)
    means: Array = sums[counts > 0] / counts[counts > 0]
    return means


@lru_cache(maxsize=64)
def _draws(count: int, axis: int) -> Array:
    """How often each of `count` units is drawn, (RESAMPLES, count): the same in every call, and
    independently on every axis."""
    if count == 1:
        return np.ones((RESAMPLES, 1))
    rng = np.random.default_rng((axis, count))
    return rng.multinomial(count - 1, np.full(count, 1 / count), RESAMPLES).astype(float)


def _degrees_of_freedom(values: Array) -> float:
    """Of the sum of two variances of a mean: one from seed to seed, one from image to image."""
    parts = [_variance_of_mean(values, axis) for axis in (1, 0)]
    total = sum(variance for variance, _ in parts)
    if not total:  # the seeds agree on average, and so do the images
        return float(min(values.shape)) - 1
    return total**2 / sum(variance**2 / free for variance, free in parts if variance)


def _variance_of_mean(values: Array, axis: int) -> tuple[float, int]:
    means = np.nanmean(values, axis=axis)
    if len(means) < 2:
        return 0.0, 1
    return float(np.var(means, ddof=1)) / len(means), len(means) - 1


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of one loss against the baseline.

    `p` is corrected for all tests of the family; None where so few pairs could not have told
    anything, however large the differences.
    """

    pairs: int
    p: float | None


def signed_rank(families: Mapping[str, Array]) -> dict[str, SignedRank]:
    """Test every loss's differences, one per pair of trainings, with Holm's correction.

    Pairs without a difference, or without a score, do not count.
    """
    pairs = {name: d[np.isfinite(d) & (d != 0)] for name, d in families.items()}
    tests = [name for name, d in pairs.items() if len(d)]
    corrected = holm([float(stats.wilcoxon(pairs[name]).pvalue) for name in tests])
    able = {
        name: p
        for name, p in zip(tests, corrected)
        if len(pairs[name]) >= pairs_needed(len(families))
    }
    return {name: SignedRank(len(d), able.get(name)) for name, d in pairs.items()}


def pairs_needed(tests: int) -> int:
    """The fewest pairs with which the signed-rank test can reach its level among so many tests.

    With n pairs, all differences of one sign have the smallest p there is, 2 ** (1 - n); Holm's
    correction multiplies the smallest of them by the number of tests.
    """
    return math.ceil(1 + math.log2(tests / LEVEL))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number, in the order given (Holm, Scandinavian J. of Statistics 1979)."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = [float(p_values[index]) * (count - rank) for rank, index in enumerate(order)]
    corrected = np.minimum(np.maximum.accumulate(scaled), 1) if scaled else np.empty(0)
    result = np.empty(count)
    result[order] = corrected
    return [float(p) for p in result]


@dataclass(frozen=True)
class MeanRanks:
    """Friedman's test over blocks, and how far mean ranks must differ (Nemenyi) to be told apart.

    Rank 1 is best. `groups` are the largest sets of losses, best first, that cannot be told apart.
    """

    ranks: Mapping[str, float]
    blocks: int
    p: float
    critical_difference: float

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Runs of neighbours by mean rank; all losses are one if Friedman's test finds nothing."""
        names, ranks = list(self.ranks), list(self.ranks.values())
        if self.p >= LEVEL:
            return [tuple(names)]
        found, last = [], 0
        for start, rank in enumerate(ranks):
            end = sum(other - rank < self.critical_difference for other in ranks)
            if end > last:
                found.append(tuple(names[start:end]))
                last = end
        return found


def mean_ranks(scores: Mapping[str, Array], *, lower_is_better: bool) -> MeanRanks | None:
    """Rank the losses within every block (one score each), ties with the mean of their ranks.

    None with fewer losses or blocks than the test takes. Demsar, Statistical comparisons of
    classifiers over multiple data sets, JMLR 7, 2006.
    """
    table = np.array(list(scores.values()))
    if len(scores) < MIN_LOSSES or table.shape[1] < MIN_BLOCKS:
        return None
    losses, blocks = table.shape
    signed = table if lower_is_better else -table
    means = stats.rankdata(signed, axis=0).mean(1)
    order = np.argsort(means, kind="stable")
    names = list(scores)
    alike = bool((signed == signed[0]).all())
    return MeanRanks(
        ranks={names[i]: float(means[i]) for i in order},
        blocks=blocks,
        p=1.0 if alike else float(stats.friedmanchisquare(*signed).pvalue),
        critical_difference=critical_difference(losses, blocks),
    )


def critical_difference(losses: int, blocks: int) -> float:
    """By how much two mean ranks must differ: Nemenyi's test, from the studentized range."""
    quantile = float(stats.studentized_range.ppf(1 - LEVEL, losses, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(losses * (losses + 1) / (6 * blocks))


def places(scores: Mapping[str, Array], *, lower_is_better: bool) -> dict[str, tuple[int, int]]:
    """The best and the worst place that each loss may have.

    A loss is ahead of another one if the interval of their paired difference lies on one side of 0.
    That holds for each pair alone: about one in twenty pairs of equal losses is told apart.
    """
    ahead, behind = dict.fromkeys(scores, 0), dict.fromkeys(scores, 0)
    for one, other in combinations(scores, 2):
        sign = paired(scores[one], scores[other]).sign
        if sign:
            one_is_better = (sign < 0) == lower_is_better
            better, worse = (one, other) if one_is_better else (other, one)
            behind[better] += 1
            ahead[worse] += 1
    return {name: (1 + ahead[name], len(scores) - behind[name]) for name in scores}
