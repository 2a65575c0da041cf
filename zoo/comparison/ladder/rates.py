"""The best learning rate of a contestant as a power of its size, fitted to the grids of its small rungs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEAR = 1
"""So many rates of a grid on either side of its best are fitted: farther away a loss is no parabola."""
DRAWS = 400
FAR = 3.0
"""A predicted rate stays within this factor of the rates that were tried."""


@dataclass(frozen=True)
class RateLaw:
    """``lr*(N) = exp(a) N^b``.

    Attributes:
        constant, exponent: a and b.
        tried: the smallest and the largest rate that was tried.
        sizes: the smallest and the largest size of the rungs that were tuned.
        draws: a and b of as many laws as the points allow, for intervals; empty where no interval is known.
        doubt: why it is no fit, but the best rate of the largest tuned rung; empty where it is one.
    """

    constant: float
    exponent: float
    tried: tuple[float, float]
    sizes: tuple[float, float]
    draws: tuple[tuple[float, float], ...] = ()
    doubt: str = ""

    def at(self, size: float) -> float:
        """The rate at a size, within a factor of :data:`FAR` of the rates that were tried."""
        return self._within(math.exp(self.constant + self.exponent * math.log(size)))

    def interval(self, size: float) -> tuple[float, float] | None:
        """The 95 % interval of the rate at a size, in the same bounds; none where there is no fit."""
        if not self.draws:
            return None
        rates = [self._within(math.exp(min(50.0, a + b * math.log(size)))) for a, b in self.draws]
        low, high = np.percentile(rates, [2.5, 97.5])
        return float(low), float(high)

    def _within(self, rate: float) -> float:
        return min(max(rate, self.tried[0] / FAR), self.tried[1] * FAR)


def fit_rates(tried: Mapping[float, Sequence[tuple[float, float]]]) -> RateLaw:
    """The law of the best rate, by one parabola in the logarithm of the rate whose vertex moves with the size.

    ``score = m_N - c (log lr - a - b log N)^2`` with a level of its own for each size. It is linear in ``m_N``, ``c``,
    ``c a`` and ``c b``, so least squares solve it. The interval is that of draws from the normal distribution of these
    numbers, scaled by Student's t with the degrees of freedom that are left. Of each size the best rate and its
    neighbours count. Where the best lies at an edge of the grid, its two neighbours on the other side do. With one
    size, or where the points have no maximum, the law is constant: the best rate of the largest size.

    Args:
        tried: rates and their scores (higher is better, finite), by number of parameters.
    """
    rates = [rate for points in tried.values() for rate, _ in points]
    largest = max(tried)
    best = max(tried[largest], key=lambda point: point[1])[0]
    bounds, sizes = (min(rates), max(rates)), (min(tried), largest)

    def constant(doubt: str) -> RateLaw:
        return RateLaw(math.log(best), 0.0, bounds, sizes, doubt=doubt)

    if len(tried) < 2:
        return constant("one size alone was tuned")
    kept = {size: _near_best(sorted(points)) for size, points in tried.items()}
    rows, scores = [], []
    middle = float(np.mean([math.log(size) for size in kept]))
    for index, (size, points) in enumerate(kept.items()):
        for rate, score in points:
            level = [0.0] * len(kept)
            level[index] = 1.0
            log_rate, log_size = math.log(rate), math.log(size) - middle
            rows.append([*level, log_rate**2, log_rate, log_rate * log_size])
            scores.append(score)
    design, y = np.array(rows), np.array(scores)
    free = len(y) - design.shape[1]
    if free < 0 or np.linalg.matrix_rank(design) < design.shape[1]:
        return constant("too few rates were tried")
    theta = np.linalg.lstsq(design, y, rcond=None)[0]
    if theta[-3] >= 0:
        return constant("the scores have no maximum between the rates that were tried")
    draws: tuple[tuple[float, float], ...] = ()
    if free > 0:
        draws = _draws(design, y, theta, free, middle)
    a, b = _vertex(theta, middle)
    return RateLaw(a, b, bounds, sizes, draws)


def points_of(tried: Iterable[tuple[float, Sequence[float | None]]], sign: int) -> list[tuple[float, float]]:
    """Each rate with its mean score, counted upwards; without those of which a run failed or has no score.

    Args:
        tried: rates, with the validation scores of their runs; none stands for a run that failed.
        sign: 1 where higher is better, else -1.
    """
    return [
        (rate, sign * fmean(score for score in scores if score is not None))
        for rate, scores in tried
        if scores and all(score is not None and math.isfinite(score) for score in scores)
    ]


def rates_around(law: RateLaw, size: float, count: int) -> list[float]:
    """What is tried at a size: the rate that the law predicts, or with ``count`` above 1 half and twice of it too."""
    rate = law.at(size)
    return [float(f"{each:.3g}") for each in ([rate] if count == 1 else [rate / 2, rate, 2 * rate])]


def _near_best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best rate and its neighbours; at an edge the three at that edge."""
    best = max(range(len(points)), key=lambda index: points[index][1])
    start = min(max(0, best - NEAR), max(0, len(points) - 2 * NEAR - 1))
    return list(points[start : start + 2 * NEAR + 1])


def _vertex(theta: Floats, middle: float) -> tuple[float, float]:
    """a and b of ``log lr* = a + b log N``."""
    bend, linear, moved = theta[-3:]
    b = -moved / (2 * bend)
    return float(-linear / (2 * bend) - b * middle), float(b)


def _draws(design: Floats, y: Floats, theta: Floats, free: int, middle: float) -> tuple[tuple[float, float], ...]:
    """a and b of draws from the distribution of the fitted numbers; those without a maximum are left out."""
    source = np.random.default_rng(0)
    variance = float(((y - design @ theta) ** 2).sum()) / free
    spread = np.linalg.inv(design.T @ design) * variance
    root = np.linalg.cholesky(spread + 1e-18 * np.eye(len(theta)))
    draws = []
    for _ in range(DRAWS):
        scale = math.sqrt(free / source.chisquare(free))
        drawn = theta + scale * (root @ source.normal(size=len(theta)))
        if drawn[-3] < 0:
            draws.append(_vertex(drawn, middle))
    return tuple(draws)
