"""Iso-FLOP valleys: at equal training FLOPs, which size of a contestant is best, and how that grows with compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.comparison.ladder.line import Line
from zoo.comparison.ladder.noise import Noise, student
from zoo.comparison.words import quantity

LEAST_OPTIMA = 3
"""A line through two optima has no check."""


@dataclass(frozen=True)
class Point:
    """The runs of one size at one rung: its parameters and tokens, and the score of each seed, counted upwards."""

    parameters: float
    tokens: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Optimum:
    """The best size of a contestant at one rung.

    Attributes:
        compute: training FLOPs of all its runs.
        sizes: the smallest and the largest that was run.
        parameters, tokens: at the vertex of the parabola; none where it says nothing, as ``doubt`` explains.
        low, high: the 95 % interval of the parameters.
        fewest, most: that of the tokens.
        error: the standard error of the logarithm of the parameters.
        freedom: its degrees of freedom.
        doubt: why there is no optimum here; empty where there is one.
    """

    compute: float
    sizes: tuple[float, float]
    parameters: float | None = None
    low: float | None = None
    high: float | None = None
    tokens: float | None = None
    fewest: float | None = None
    most: float | None = None
    error: float = math.nan
    freedom: float = math.nan
    doubt: str = ""

    def interval(self) -> str:
        """The interval of the parameters in words; what lies beyond the sizes that were run has no figure."""
        if self.low is None or self.high is None:
            return ""
        least, most = self.sizes
        low = f"below {quantity(least)}" if self.low < least else quantity(self.low)
        high = f"above {quantity(most)}" if self.high > most else quantity(self.high)
        return f"{low} to {high}"

    def __str__(self) -> str:
        """The best size with its interval."""
        return "unknown" if self.parameters is None else f"{quantity(self.parameters)} ({self.interval()})"


@dataclass(frozen=True)
class Growth:
    """An optimum over compute, ``x = k C^e``.

    Attributes:
        exponent, low, high: e and its 95 % interval.
        compute: the smallest and the largest from which it was fitted.
        next: the compute of one further rung, and what it says there, with its 95 % interval.
    """

    exponent: float
    low: float
    high: float
    compute: tuple[float, float]
    next: tuple[float, float, float, float]


@dataclass(frozen=True)
class Valley:
    """The optima of a contestant at each rung, and how the best size and the best number of tokens grow with compute.

    ``parameters`` and ``tokens`` are none where fewer than three rungs have an optimum.
    """

    contestant: str
    optima: tuple[Optimum, ...]
    parameters: Growth | None
    tokens: Growth | None


def valley(
    contestant: str, compute: Sequence[float], rungs: Sequence[Sequence[Point]], noise: Sequence[Noise | None]
) -> Valley | None:
    """The valleys of a contestant (Hoffmann et al. 2022, arXiv:2203.15556, approach 2); none without three sizes.

    At each rung a parabola ``score = a - c (log N - log N*)^2`` is fitted to the means of sizes, weighted by the noise
    of seeds. The lines ``log N* = k + e log C`` and the same of tokens are fitted by least squares to those optima that
    lie within the sizes of their rung. Where they lie farther from the line than their noise explains, intervals grow
    by Birge's ratio.

    Args:
        contestant: whose they are.
        compute: training FLOPs of each rung, rising.
        rungs: the points of each.
        noise: of a run, at each rung.
    """
    if all(len(points) < 3 for points in rungs):
        return None
    optima = tuple(_optimum(c, points, each) for c, points, each in zip(compute, rungs, noise, strict=True))
    known = [each for each in optima if not each.doubt]
    if len(known) < LEAST_OPTIMA:
        return Valley(contestant, optima, None, None)
    further = known[-1].compute * compute[-1] / compute[-2]  # one rung beyond the last that has an optimum
    sizes = [_positive(each.parameters) for each in known]
    tokens = [_positive(each.tokens) for each in known]
    return Valley(contestant, optima, _growth(known, sizes, further), _growth(known, tokens, further))


def _positive(value: float | None) -> float:
    assert value is not None
    return value


def _growth(optima: Sequence[Optimum], values: Sequence[float], further: float) -> Growth:
    x = tuple(math.log(each.compute) for each in optima)
    y = tuple(map(math.log, values))
    line = Line(x, y, tuple(each.error**2 for each in optima), tuple(each.freedom for each in optima))
    error, freedom = line.error([(each - line.middle) / line.spread for each in x])
    half = student(freedom, 0.975) * error
    at = math.log(further)
    error, freedom = line.error(line.weights(at))
    wide = student(freedom, 0.975) * error
    told = [math.exp(line.at(at) + off) for off in (0.0, -wide, wide)]
    return Growth(
        line.slope, line.slope - half, line.slope + half, (optima[0].compute, optima[-1].compute),
        (further, told[0], told[1], told[2]),
    )  # fmt: skip


def _optimum(compute: float, points: Sequence[Point], noise: Noise | None) -> Optimum:
    """The vertex of the parabola through the sizes of a rung, with Fieller's interval (1954)."""
    points = sorted(points, key=lambda point: point.parameters)
    sizes = (points[0].parameters, points[-1].parameters)
    if len(points) < 3:
        return Optimum(compute, sizes, doubt="fewer than three sizes were run")
    if not all(map(math.isfinite, (score for point in points for score in point.scores))):
        return Optimum(compute, sizes, doubt="a run failed")
    if noise is None or not noise.deviation:
        return Optimum(compute, sizes, doubt="no rung has two seeds, so its noise is unknown")
    # a parabola in the logarithm of the size, weighted by the noise of each mean
    logs = np.log([point.parameters for point in points])
    middle = float(logs.mean())
    u = logs - middle
    y = np.array([np.mean(point.scores) for point in points])
    weights = np.array([len(point.scores) for point in points]) / noise.deviation**2
    design = np.stack([np.ones_like(u), u, u**2], 1)
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    _, linear, bend = covariance @ design.T @ (weights * y)
    free = len(points) - 3
    if free:  # more points than numbers: they may lie farther from the parabola than their noise explains
        left = float((weights * (y - design @ (covariance @ design.T @ (weights * y))) ** 2).sum())
        covariance = covariance * max(1.0, left / free)
    quantile = student(noise.freedom, 0.975)
    if bend >= 0 or bend**2 <= quantile**2 * covariance[2, 2]:
        return Optimum(compute, sizes, doubt="the scores of these sizes bend by no more than their noise")
    vertex = float(-linear / (2 * bend))
    if not u[0] <= vertex <= u[-1]:
        beyond = "largest" if vertex > 0 else "smallest"
        return Optimum(compute, sizes, doubt=f"the best size is beyond the {beyond} that was run")
    variance = covariance[1, 1] + 4 * vertex * covariance[1, 2] + 4 * vertex**2 * covariance[2, 2]
    low, high = _zeros(float(linear), float(bend), covariance, quantile)
    order = np.log([point.tokens for point in points])

    def tokens(at: float) -> float:
        """Tokens that as much compute allows at a size: on the line through the two nearest sizes that were run."""
        index = int(np.clip(np.searchsorted(u, at) - 1, 0, len(u) - 2))
        slope = (order[index + 1] - order[index]) / (u[index + 1] - u[index])
        return float(np.exp(order[index] + slope * (at - u[index])))

    return Optimum(
        compute, sizes, math.exp(middle + vertex), math.exp(middle + low), math.exp(middle + high), tokens(vertex),
        tokens(high), tokens(low), math.sqrt(variance) / abs(2 * bend), noise.freedom,
    )  # fmt: skip


def _zeros(linear: float, bend: float, covariance: np.ndarray, quantile: float) -> tuple[float, float]:
    """Between which points the slope of the parabola may be zero."""
    squared = quantile**2
    a = 4 * (bend**2 - squared * covariance[2, 2])
    b = 4 * (linear * bend - squared * covariance[1, 2])
    c = linear**2 - squared * covariance[1, 1]
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)
