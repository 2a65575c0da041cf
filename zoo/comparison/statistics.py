"""Few seeds, honestly: means with Student's intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds and its 95 % interval; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval, or none."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean with Student's t interval, which is wide for few seeds, as it should be.

    A percentile bootstrap of three seeds covers about 75 % where it says 95 %. No interval where a value is infinite or
    NaN, as a metric that does not rank may be.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an estimate needs at least one value")
    mean, n = _mean(values), len(values)
    if n < 2 or not math.isfinite(mean):
        return Estimate(mean, None, None, n)
    half = _student(0.5 + level / 2, n - 1) * _deviation(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


@lru_cache(maxsize=1024)
def _student(share: float, freedom: float) -> float:
    """A quantile of Student's distribution. (scipy.stats has it too, and takes a second to be imported.)"""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation, infinite where it is more than a float holds."""
    try:
        return stdev(values)
    except OverflowError:
        return math.inf


def _mean(values: Sequence[float]) -> float:
    """The mean, also of numbers whose sum is more than a float holds."""
    try:
        return fmean(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)
    except ValueError:  # infinities of both signs
        return math.nan


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean of ours minus theirs over the seeds that both finished; none where they share no seed."""
    shared = sorted(set(ours) & set(theirs))
    return estimate([ours[seed] - theirs[seed] for seed in shared]) if shared else None


def expected_best(scores: Sequence[float], trials: int, higher_is_better: bool) -> float:
    """The best of so many settings, drawn without replacement from those that were tried, on average.

    ``sum_i C(i-1, m-1) / C(n, m) v_(i)`` over the scores in rising order, which is unbiased (Tang et al. 2020,
    arXiv:2004.13705; Dodge et al. 2019, arXiv:1909.03004, draw with replacement).

    Raises:
        ValueError: fewer were tried.
    """
    if not 1 <= trials <= len(scores):
        raise ValueError(f"{trials} trials of {len(scores)} scores: expected from 1 to as many as there are")
    ordered = sorted(scores, reverse=not higher_is_better)
    weights = [math.comb(i, trials - 1) / math.comb(len(scores), trials) for i in range(len(scores))]
    return sum(weight * score for weight, score in zip(weights, ordered, strict=True))


def share_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, such as that of runs that solved a task; never empty, even for 0 of 3."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    middle = (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def verdict(difference: Estimate | None, higher_is_better: bool) -> str:
    """``better`` or ``worse`` where the interval of the paired difference leaves out zero, else ``not separated``.

    An interval of no width says nothing: two seeds that differ by the same amount do so by chance too often.
    """
    if difference is None or difference.low is None or difference.high is None:
        return "unknown"
    if math.isclose(difference.low, difference.high, rel_tol=0, abs_tol=1e-12):  # equal but for rounding
        return "not separated"
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.mean > 0) == higher_is_better else "worse"
    return "not separated"


def interquartile_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """The mean of the middle half, each value weighing alike unless told; what is cut through counts in part.

    Agarwal et al. 2021, arXiv:2108.13264: over many runs it is as robust as a median and as efficient as a mean.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interquartile mean needs at least one value")
    pairs = sorted(zip(values, weights or [1.0] * len(values), strict=True))
    whole = sum(weight for _, weight in pairs)
    total = kept = reached = 0.0
    for value, weight in pairs:
        middle = max(0.0, min(reached + weight, 0.75 * whole) - max(reached, 0.25 * whole))
        total, kept, reached = total + middle * value, kept + middle, reached + weight
    return total / kept


def over_strata(
    strata: Sequence[Sequence[float]],
    statistic: Callable[[Sequence[float]], float],
    level: float = 0.95,
    draws: int = 500,
) -> Estimate:
    """A statistic of all values, with the interval of a bootstrap that draws anew within each stratum (a task's seeds).

    The bootstrap says the standard error; seeds' distances from their task's mean are first stretched by
    ``sqrt(n / (n - 1))``, since few values are closer to their own mean than to the true one (Davison and Hinkley 1997,
    section 2.3.2). The interval is as many standard errors as Student's distribution asks, with Welch's and
    Satterthwaite's degrees of freedom: percentiles of a bootstrap of three seeds cover about 75 % where they say 95 %.
    No interval where a stratum has one value, or where all strata have no spread. Where runs of a task either solve it
    or do not, few seeds often agree by chance, and the interval is too narrow: look at how many solved it.

    Raises:
        ValueError: there are no values.
    """
    import numpy as np

    values = [value for stratum in strata for value in stratum]
    found, n = statistic(values), len(values)
    if any(len(stratum) < 2 for stratum in strata):
        return Estimate(found, None, None, n)
    variances = [_deviation(s) * _deviation(s) / len(s) for s in strata]
    whole = sum(variances)
    if whole == 0:  # seeds that agree to the last digit say nothing of how far others would be
        return Estimate(found, None, None, n)
    freedom = whole * whole / sum(v * v / (len(s) - 1) for v, s in zip(variances, strata, strict=True))
    source = np.random.default_rng(0)
    parts = []
    for stratum in strata:
        x, size = np.asarray(stratum, dtype=np.float64), len(stratum)
        stretched = x.mean() + (x - x.mean()) * math.sqrt(size / (size - 1))
        parts.append(stretched[source.integers(0, size, (draws, size))])
    error = float(np.std([statistic(row) for row in np.concatenate(parts, 1).tolist()], ddof=1))
    half = _student(0.5 + level / 2, freedom) * error
    return Estimate(found, found - half, found + half, n)


FEWEST = 8
"""With fewer values the percentiles of a bootstrap cover too little, whatever is done to them."""


def bootstrap(values: Sequence[float], level: float = 0.95, draws: int = 10_000) -> Estimate:
    """The mean with a percentile interval of the bootstrap, widened for few values; none below :data:`FEWEST`.

    Expanded percentiles (Hesterberg 2015, doi:10.1080/00031305.2015.1089789): those at which Student's interval would
    be a normal one.

    Raises:
        ValueError: there are no values.
    """
    import numpy as np
    from scipy.special import ndtr

    mean, n = fmean(values) if values else math.nan, len(values)
    if not values:
        raise ValueError("an estimate needs at least one value")
    if n < FEWEST:
        return Estimate(mean, None, None, n)
    means = np.asarray(values)[np.random.default_rng(0).integers(0, n, (draws, n))].mean(1)
    tail = float(ndtr(-math.sqrt(n / (n - 1)) * _student(0.5 + level / 2, n - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), n)
