"""Few seeds, honestly: means with Student's intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    A percentile bootstrap of three seeds covers about 75 % where it says 95 %.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an estimate needs at least one value")
    mean, n = fmean(values), len(values)
    if n < 2:
        return Estimate(mean, None, None, n)
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean of ours minus theirs over the seeds that both finished; none where they share no seed."""
    shared = sorted(set(ours) & set(theirs))
    return estimate([ours[seed] - theirs[seed] for seed in shared]) if shared else None


def verdict(difference: Estimate | None, higher_is_better: bool) -> str:
    """``better`` or ``worse`` where the interval of the paired difference leaves out zero, else ``not separated``."""
    if difference is None or difference.low is None or difference.high is None:
        return "unknown"
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.mean > 0) == higher_is_better else "worse"
    return "not separated"
